"""`make bench-diloco`: how much quality a byte buys, sparse, asynchronous, faulty and lied to.

Every run starts from the same warm model of its seed and sees the same number of tokens. Finished runs are kept in
``build/bench/diloco/``, so an interrupted benchmark goes on where it stopped; ``--fresh`` starts over.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.benchmarks.diloco.cases import Case, execute
from tests.benchmarks.diloco.markdown import tables
from tests.benchmarks.diloco.report import Rows, plots, save, show, summary
from tests.benchmarks.diloco.sections import HEADLINE, SECTIONS
from tests.benchmarks.diloco.world import CONFIGS, Config, world

FOLDER = Path("build/bench")
# One seed where differences are far larger than noise.
ONE_SEED = ("asynchrony", "state", "byzantine")
# In the section of liars these rules have two.
TWO_SEEDS = ("mean", "clip-cosine")


def main() -> None:
    """Parse arguments, run what is missing, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", choices=sorted(CONFIGS), default="small")
    parser.add_argument("--sections", default="", help=f"comma-separated: {', '.join(SECTIONS)}")
    parser.add_argument("--fresh", action="store_true", help="forget finished runs")
    parser.add_argument("--plots", type=Path, default=FOLDER / "diloco", help="folder of the SVG files")
    options = parser.parse_args()
    config = CONFIGS[options.config]
    wanted = options.sections.split(",") if options.sections else list(SECTIONS)
    small = config.name == "small" and not options.sections
    jobs = [
        (case, seed)
        for seed in config.seeds
        for section in wanted
        for case in (HEADLINE if small and section == "quality" else [] if small else SECTIONS[section])
        if seed == config.seeds[0] or section not in ONE_SEED or _noisy(case)
    ]
    # What matters most first: an interrupted benchmark has the headline.
    jobs.sort(key=lambda job: job[0] not in HEADLINE)
    rows = run_all(jobs, config, FOLDER / "diloco", options.fresh)
    result = summary(rows, config.name)
    show(result)
    save(result, FOLDER / "diloco.json")
    plots(rows, options.plots)
    text = "\n\n".join(f"{name}\n\n{table}" for name, table in tables(result).items())
    (FOLDER / "diloco" / "tables.md").write_text(text + "\n", encoding="utf-8")
    print(f"\nfigures: {FOLDER / 'diloco.json'}; plots: {options.plots}")


def _noisy(case: Case) -> bool:
    """Whether a run of a section with one seed is made with two all the same."""
    return case.section == "byzantine" and case.kind == "cohort" and case.aggregator in TWO_SEEDS


def run_all(jobs: list[tuple[Case, int]], config: Config, folder: Path, fresh: bool) -> Rows:
    """Results of all jobs, from the folder where they are there already."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: Rows = []
    for number, (case, seed) in enumerate(jobs, 1):
        key = sha256(f"{config.key}/{seed}/{case}".encode()).hexdigest()[:20]
        path = folder / f"run-{key}.json"
        if fresh or not path.exists():
            row = execute(case, world(config, seed, folder))
            partial = path.with_suffix(f".{os.getpid()}")
            partial.write_text(json.dumps(row))
            partial.replace(path)
        row: dict[str, Any] = json.loads(path.read_text())
        rows.append(row)
        loss = row["loss"] if row["loss"] is not None else math.nan
        print(
            f"[{number}/{len(jobs)}] seed {seed} {case.section}: {case.name}: loss {loss:.4f}, "
            f"{row.get('sent', 0) / 1e6:.2f} MB sent, {row['cpu_s']:.0f} s of CPU",
            flush=True,
        )
    return rows


if __name__ == "__main__":
    main()
