"""How many faults that are put into the code the tests notice: mutation testing of a part of the package.

    nox --session mutation
    python benchmarks/mutation.py --folder functional --places 60 --record outputs/tests.json

cosmic-ray makes the mutants. A place of the code is drawn, and one of its mutants. A process that has torch imported
forks for each mutant, imports the package with it, and runs the tests that pass through its line, the quick ones first,
until one fails. Which tests those are is recorded before, by coverage. It needs cosmic-ray, coverage, and Linux.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import json
import random
from collections import defaultdict
from pathlib import Path

from forked_tests import Recording, passes, record, warm_up

PACKAGE = Path("sj_parallel_conversion")
TESTS = ["functional", "neuron", "ann2snn/calibration"]
# x == 1 and x is 1 are the same in CPython; the last two need names that suit each function.
SAME = {"Eq_Is", "NotEq_IsNot", "Is_Eq", "IsNot_NotEq", "VariableReplacer", "VariableInserter"}


class Bare(ast.NodeTransformer):
    """Takes type hints out of code: nothing reads them when it runs."""

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node.returns = None
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AnnAssign:
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)


def meaning(source: str) -> str:
    """What of a module's code has an effect."""
    return ast.dump(Bare().visit(ast.parse(source)))


def places(source: str) -> dict[tuple, list[tuple[str, int]]]:
    """
    :param source: of a module
    :return: for each place that can be mutated (kind and position) the operators of cosmic-ray that do it, with the
        number of the occurrence
    """
    from cosmic_ray import plugins
    from cosmic_ray.ast import get_ast

    def nodes(node: object) -> list:
        return [node, *(n for child in getattr(node, "children", ()) for n in nodes(child))]

    found, every = defaultdict(list), nodes(get_ast(source))
    for name in plugins.operator_names():
        kind, _, change = name.removeprefix("core/").partition("_")
        if change in SAME or kind in SAME:
            continue
        operator = plugins.get_operator(name)()
        positions = [start for node in every for start, _ in operator.mutation_positions(node)]
        for occurrence, start in enumerate(positions):
            found[start, kind].append((name, occurrence))
    return dict(found)


def mutant(source: str, choices: list[tuple[str, int]], rng: random.Random) -> str | None:
    """
    :param source: of a module
    :param choices: of one place
    :param rng: decides among them
    :return: the code with one change; ``None`` if none of them changes what the code does when it runs
    """
    from cosmic_ray import plugins
    from cosmic_ray.mutating import mutate_code

    for name, occurrence in rng.sample(choices, len(choices)):
        changed = mutate_code(source, plugins.get_operator(name)(), occurrence)
        try:
            if changed is not None and meaning(changed) != meaning(source):
                return changed
        except SyntaxError:
            continue
    return None


def sample(folder: str, count: int, seed: int) -> list[tuple[Path, int, str]]:
    """
    :param folder: of the package
    :param count: how many mutants; 0 means one of every place
    :param seed: of the draw
    :return: file, line and mutated code of each
    """
    rng, mutants = random.Random(seed), []
    every = [
        (path, start, choices)
        for path in sorted((PACKAGE / folder).rglob("*.py"))
        for (start, _), choices in sorted(places(path.read_text()).items())
    ]
    rng.shuffle(every)
    for path, (line, _), choices in every:
        changed = mutant(path.read_text(), choices, rng)
        if changed is not None:
            mutants.append((path, line, changed))
        if len(mutants) == count:
            break
    return mutants


def interval(killed: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share, in %."""
    z, share = 1.96, killed / n
    centre, half = share + z * z / (2 * n), z * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    return tuple(100 * (centre + sign * half) / (1 + z * z / n) for sign in (-1, 1))


def changed_lines(path: Path, code: str) -> str:
    """The lines of a mutant that differ, with their number."""
    old, new = path.read_text().splitlines(), code.splitlines()
    lines = [x for x in difflib.unified_diff(old, new, lineterm="", n=0) if not x.startswith(("---", "+++"))]
    return "\n".join(f"    {line}" for line in lines)


def main() -> None:
    """Print the survivors, and a line for each folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", nargs="+", default=["functional", "neuron", "ann2snn/calibration"])
    parser.add_argument("--places", type=int, default=100, help="sample of each folder; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=30, help="of tests for each mutant, as recorded")
    parser.add_argument("--tests", nargs="+", help="files or folders, all of which are run, without a recording")
    parser.add_argument("--record", type=Path, help="where the recorded tests are kept for further runs")
    args = parser.parse_args()
    warm_up()
    if args.tests:
        recording = None
    elif args.record and args.record.is_file():
        recording = Recording(**json.loads(args.record.read_text()))
    else:
        recording = record([f"tests/{name}" for name in TESTS], str(PACKAGE))
        if args.record:
            args.record.write_text(json.dumps(vars(recording)))
    for folder in args.folder:
        killed = 0
        mutants = sample(folder, args.places, args.seed)
        for path, line, code in mutants:
            rounds = recording.rounds(str(path), line, args.seconds) if recording else [args.tests]
            survives = all(passes(str(path), code, tests) for tests in rounds)
            killed += not survives
            if survives:
                print(f"survives: {path}:{line}\n{changed_lines(path, code)}", flush=True)
        low, high = interval(killed, len(mutants))
        share = 100 * killed / len(mutants)
        print(f"{folder}: {killed} of {len(mutants)} killed, {share:.1f} % ({low:.1f} to {high:.1f})", flush=True)


if __name__ == "__main__":
    main()
