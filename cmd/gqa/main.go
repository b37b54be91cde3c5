// Command gqa computes, checks, tunes and measures grouped-query attention on
// this host.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"
	"github.com/gqa-go/gqa/bench/peers"
	"github.com/gqa-go/gqa/kernels"
	"github.com/gqa-go/gqa/tune"
)

const (
	exitOK = iota
	exitError
	exitUsage
)

type cli struct {
	Info   infoCmd   `cmd:"" help:"Show the CPU, its caches, the variants and the profile in use."`
	Attend attendCmd `cmd:"" help:"Compute attention over .npy files, or over a real sample."`
	Verify verifyCmd `cmd:"" help:"Check every variant against the float64 oracle on random cases."`
	Tune   tuneCmd   `cmd:"" help:"Search the fastest tuning for a model on this host and save it."`
	Bench  benchCmd  `cmd:"" help:"Measure, and compare with the limits of this machine."`

	Version kong.VersionFlag `help:"Print the version and exit."`
}

const description = `Grouped-query attention on CPUs: kernels in AVX2, AVX-512, NEON and portable Go, picked by what the CPU can do.

Begin with "gqa attend --check", which computes attention over a real model's Q, K and V and compares it with the float64 oracle. ` +
	kernels.EnvVariant + ` forces a variant; ` + tune.EnvProfile + ` names the profile to use.`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends at once
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// exit is what kong's exit hook panics with, for run to recover.
type exit int

// run is the whole command: it returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) (code int) {
	defer func() {
		if p := recover(); p != nil {
			e, ok := p.(exit)
			if !ok {
				panic(p)
			}
			code = int(e)
		}
	}()
	var c cli
	parser, err := kong.New(&c,
		kong.Name("gqa"),
		kong.Description(description),
		kong.Writers(stdout, stderr),
		kong.Exit(func(code int) { panic(exit(code)) }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
		kong.WithHyphenPrefixedParameters(true), // numbers may be negative
		kong.Vars{"version": version(), "models": modelNames(), "peers": strings.Join(peers.Names(), ", ")},
	)
	if err != nil {
		panic(err) // the struct tags are wrong: any test finds it
	}
	parsed, err := parser.Parse(args)
	if err != nil {
		command := "gqa"
		var parseErr *kong.ParseError
		if errors.As(err, &parseErr) && parseErr.Context.Selected() != nil {
			command += " " + parseErr.Context.Selected().Name
		}
		fmt.Fprintf(stderr, "gqa: %v\nRun %q for help.\n", err, command+" --help")
		return exitUsage
	}
	// A name in the environment that no variant has would be wrong for any command;
	// one that this host cannot run concerns only those who use it.
	if _, err := kernels.Variants(); err != nil && !errors.Is(err, kernels.ErrUnsupported) {
		fmt.Fprintf(stderr, "gqa: %s=%s: %v\n", kernels.EnvVariant, os.Getenv(kernels.EnvVariant), err)
		return exitError
	}
	if err := parsed.Run(&env{ctx, stdout, stderr}); err != nil {
		fmt.Fprintf(stderr, "gqa: %s\n", strings.ReplaceAll(err.Error(), "\n", "\ngqa: "))
		return exitError
	}
	return exitOK
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(unknown)"
}
