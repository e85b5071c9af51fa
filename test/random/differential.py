"""Plays random worlds against the extension; see world.py for what happens in one.

    differential.py [--seed N] [--rounds N] [--world N]

A world lasts ROUNDS rounds. A failure prints the seed and the number of its world, which `--world`
plays again, and leaves the SQL of that world in .run/.
"""

import argparse
import pathlib
import random
import sys
import time
import traceback

sys.dont_write_bytecode = True
sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

from mirror import Difference  # noqa: E402  the line above makes the rig importable
from rig.cluster import Cluster  # noqa: E402
from rig.place import RUN  # noqa: E402
from rig.process import raise_on_termination  # noqa: E402
from world import ROUNDS, World  # noqa: E402


def play(cluster, seed, number, rounds):
    """Plays one world; returns None, or what went wrong."""
    database = cluster.database("random_template")
    world = None
    try:
        world = World(database, seed, number)
        world.play(rounds)
        return None
    except Exception as error:
        script = RUN / f"random-{seed}-{number}.sql"
        if world is not None:
            script.write_text("\n".join(world.session.script) + "\n")
        if not isinstance(error, Difference):
            traceback.print_exc()
        return (f"random world {number} of seed {seed}: {type(error).__name__}: {error}\n"
                f"its SQL: {script}; again: "
                f"test/random/differential.py --seed {seed} --world {number}")
    finally:
        if world is not None:
            world.close()
        database.drop()


def prepare(cluster):
    """The template that every world starts from."""
    cluster.database(name="random_template").psql("-c", "CREATE EXTENSION rowsync")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--world", type=int)
    parser.add_argument("--keep-going", action="store_true")
    options = parser.parse_args()
    raise_on_termination()
    worlds = range(-(-options.rounds // ROUNDS)) if options.world is None else [options.world]
    print(f"seed {options.seed}, {len(worlds)} worlds of {ROUNDS} rounds", flush=True)
    cluster = Cluster.start("random", fsync="off", autovacuum="off")
    failures = 0
    begin = time.monotonic()
    try:
        prepare(cluster)
        for number in worlds:
            failure = play(cluster, options.seed, number, ROUNDS)
            if failure:
                failures += 1
                print(failure, flush=True)
                if not options.keep_going:
                    break
    finally:
        cluster.stop()
    print(f"{failures} failed ({time.monotonic() - begin:.0f} s)")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
