"""Print how far we are from the official code: ``python tests/golden.py [FOLDER]``, a row per case and quantity.

FOLDER holds golden files (see :mod:`golden_case`); default ``HD_GOLDEN_DIR``, else the copy kept with the tests. Exits
with 1 if anything is beyond its tolerance, or if there is no case.
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # from a checkout, installed or not
from golden_case import Case, case_names, folder, unsupported
from golden_checks import PARTS


def main(where: Path) -> int:
    """Print the table; the number of failures, at most one."""
    torch.set_num_threads(1)
    names = case_names(where)
    if all(unsupported(where, name) for name in names):
        print(f"no case in {where}: nothing was compared")
        return 1
    failures = 0
    print(f"{'case':30}{'part':13}{'quantity':54}{'error':>9}{'allowed':>9}")
    for name in names:
        reason = unsupported(where, name)
        if reason:
            print(f"{name:30}skipped: {reason}")
            continue
        case = Case(where, name)
        rows = [row for part in PARTS.values() for row in part(case)]
        failures += sum(not row.passed for row in rows)
        for row in rows:
            mark = "" if row.passed else "  <-- beyond"
            print(f"{row.case:30}{row.part:13}{row.quantity:54}{row.error:9.1e}{row.tolerance:9.0e}{mark}")
    print(f"{failures} beyond tolerance" if failures else "all within tolerance")
    return min(failures, 1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else folder()))
