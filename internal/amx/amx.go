// Package amx tells whether this process may use AMX, the tile registers of amd64, and
// asks the system for that.
package amx

import "sync"

// Missing says why this process cannot use AMX with products of bf16; empty: it can. The first call
// asks the system for its permission, which holds for the whole process.
var Missing = sync.OnceValue(missing)
