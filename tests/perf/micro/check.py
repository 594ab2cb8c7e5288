"""Runs the micro-benchmarks in some rounds and compares them to the committed baseline: see scripts/micro.sh.

A figure is the best of many samples of all rounds, divided by the best of its calibration. Other load on a machine
makes samples slower and never faster, so the best sample is the time without other load. A benchmark that has become
too slow is measured again, up to twice, with all samples kept, before it counts.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
BASELINE = HERE / "baseline.json"
CALIBRATION = "/calibration"
DISK = "log/"
MAX_SLOWDOWN = 1.25
MAX_REPEATS = 2


def build():
    """Builds the program with the benchmarks and returns its path."""
    argv = ["cargo", "bench", "--locked", "--no-run", "-p", "triarch-micro", "--message-format", "json-render-diagnostics"]
    ran = subprocess.run(argv, stdout=subprocess.PIPE, text=True)
    if ran.returncode != 0:
        sys.exit("micro.sh: the benchmarks do not build, see above")
    for line in ran.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == "micro":
            return message["executable"]
    sys.exit("micro.sh: cargo built no program named micro")


class Best:
    """The best samples so far, by group and name, in ns."""

    def __init__(self, program, home):
        self.program, self.home, self.ns = program, pathlib.Path(home), {}

    def round(self, pattern):
        """Runs the matching benchmarks once more."""
        environment = {**os.environ, "CRITERION_HOME": str(self.home)}
        environment.setdefault("TRIARCH_MICRO_DIR", str(self.home))
        argv = [self.program, "--bench", "--noplot", pattern]
        ran = subprocess.run(argv, env=environment, capture_output=True, text=True)
        if ran.returncode != 0:
            sys.exit(f"micro.sh: the benchmarks failed:\n{ran.stdout}\n{ran.stderr}")
        for file in self.home.glob("*/*/new/sample.json"):
            name = f"{file.parts[-4]}/{file.parts[-3]}"
            samples = json.loads(file.read_text())
            best = min(time / iterations for time, iterations in zip(samples["times"], samples["iters"]))
            self.ns[name] = min(best, self.ns.get(name, best))
            file.unlink()

    def ratios(self):
        return {name: ns / self.calibration(name) for name, ns in self.ns.items() if not name.endswith(CALIBRATION)}

    def calibration(self, name):
        """Returns the best sample of the calibration: that of the disk for the log, and for all else the loop with
        which each of the other groups begins.
        """
        on_disk = name.startswith(DISK)
        return min(
            ns for other, ns in self.ns.items() if other.endswith(CALIBRATION) and other.startswith(DISK) == on_disk
        )


def worse(ratios, baseline):
    return {name for name, ratio in ratios.items() if name in baseline and ratio > MAX_SLOWDOWN * baseline[name]}


def pattern(names):
    """Returns a pattern for these benchmarks and the calibrations of their groups."""
    groups = {name.split("/")[0] for name in names}
    return "|".join(f"^{name}$" for name in sorted(names | {f"{group}{CALIBRATION}" for group in groups}))


def summary(best, baseline):
    width = max(len(name) for name in best.ns)
    print(f"{'':{width}}  {'best':>12}  {'to calibration':>14}  {'baseline':>10}  change")
    ratios = best.ratios()
    for name, ns in sorted(best.ns.items()):
        line = f"{name:{width}}  {ns / 1e3:>9,.2f} µs"
        if name in ratios:
            line += f"  {ratios[name]:>14.4g}"
            before = baseline.get(name)
            line += f"  {before:>10.4g}  {ratios[name] / before - 1:+.0%}" if before else "           -  new"
        print(line)


def main():
    read = argparse.ArgumentParser(description="Measures the micro-benchmarks against their baseline.")
    read.add_argument("--rounds", type=int, default=3)
    read.add_argument("--only", metavar="TEXT", help="only those with this in their name, GROUP/BENCHMARK")
    read.add_argument("--update", action="store_true", help="write what was measured as the new baseline")
    options = read.parse_args()
    baseline = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    program = build()
    home = tempfile.mkdtemp(prefix="micro-", dir=pathlib.Path(program).parents[2])
    try:
        best = Best(program, home)
        wanted = f"{options.only}|{CALIBRATION}$" if options.only else "."
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
            best.round(wanted)
        again = 0
        while not options.update and again < MAX_REPEATS and (slow := worse(best.ratios(), baseline)):
            again += 1
            print(f"measured again, {again} of {MAX_REPEATS}: {', '.join(sorted(slow))}", file=sys.stderr)
            for _ in range(options.rounds):
                best.round(pattern(slow))
    finally:
        shutil.rmtree(home, ignore_errors=True)
    summary(best, baseline)
    ratios = best.ratios()
    if options.update:
        kept = {**(baseline if options.only else {}), **{name: float(f"{ratio:.4g}") for name, ratio in ratios.items()}}
        BASELINE.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
        print(f"\nwritten to {BASELINE}")
        return
    wrong = [
        f"{name} takes {ratios[name] / baseline[name] - 1:.0%} longer than its baseline, and at most "
        f"{MAX_SLOWDOWN - 1:.0%} is borne: find out why, or, if it is worth it, `scripts/micro.sh --update`"
        for name in sorted(worse(ratios, baseline))
    ]
    if not options.only:
        wrong += [f"{name} has no baseline: `scripts/micro.sh --update --only {name}`" for name in sorted(ratios.keys() - baseline.keys())]
        wrong += [f"{name} has a baseline and is not measured any more" for name in sorted(baseline.keys() - ratios.keys())]
    if wrong:
        sys.exit("\n" + "\n".join(wrong))
    print("\nnothing has become much slower")


if __name__ == "__main__":
    main()
