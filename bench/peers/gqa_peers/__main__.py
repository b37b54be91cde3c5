"""python -m gqa_peers PEER: answers requests, one JSON object a line."""

import importlib
import json
import os
import sys
import time


def turn(run, seconds):
    """The best time of one run: at least one, and as many as there is time for. The first
    of several is not counted, since the other side has used the caches."""
    begin = time.perf_counter()
    run()
    best, last, n = time.perf_counter() - begin, begin + seconds, 0
    while (start := time.perf_counter()) < last:
        run()
        elapsed = time.perf_counter() - start
        best = elapsed if n == 0 else min(best, elapsed)
        n += 1
    return best


class Server:
    def __init__(self, name):
        self.name = name
        self.peer = None

    def load(self, request):
        self.peer = None  # its memory goes first
        # Read when a library is first imported, numpy included; adapters set what can change.
        for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[variable] = str(request["threads"])
        if self.name == "openblas-sgemm":  # it shall pick its kernels itself
            os.environ.pop("OPENBLAS_CORETYPE", None)
            os.environ.pop("OPENBLAS_L2_SIZE", None)
        from gqa_peers.case import Case

        case = Case(request)
        module = importlib.import_module("gqa_peers." + self.name.replace("-", "_"))
        self.peer = module.Peer(case)
        self.peer.run()
        return {"version": self.peer.version, "limit": getattr(self.peer, "limit", False)}

    def run(self, request):
        share = getattr(self.peer, "share", 1)  # of what it runs that the case needs
        return {"seconds": turn(self.peer.run, request["seconds"]) * share}

    def output(self, request):
        import numpy as np

        out = np.ascontiguousarray(self.peer.output(), dtype=np.float32)
        with open(request["path"], "wb") as f:
            np.save(f, out)
        return {}


def main():
    # Libraries print where they like: standard output is for answers alone.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    server = Server(sys.argv[1])
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(server, request["cmd"])(request)
        except Exception as e:  # the library's own, of whatever kind
            lines = str(e).strip().splitlines() or ["no message"]
            answer = {"error": f"{type(e).__name__}: {lines[0]}"}
        print(json.dumps({"id": request["id"]} | answer), file=answers, flush=True)


main()
