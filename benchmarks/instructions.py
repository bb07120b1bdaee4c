"""What the products' inner loops are made of, read out of the compiled code: no device is needed.

    python -m benchmarks.instructions [--cuobjdump PATH] [--real float|double]

Compiles the CUDA sources for sm_90 with nvcc, disassembles them, and shows for each loop that multiplies its instructions and the
share of multiplications of the result (FFMA, DFMA) among them. Kernels have a loop for their narrow tile and one for the other.
"""
from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from convnet.kernels.cuda import source

INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,5})\*/\s+(?:@!?U?P\w+ )?([A-Z][A-Z0-9_.]*)([^;]*);")
# A loop with fewer multiplications is none over a tile.
LEAST = 100


def loops(assembly: str) -> list[tuple[str, int, int]]:
    """Return kernel, instructions and multiplications of each loop over tiles in the output of ``cuobjdump -sass``."""
    found = []
    for function in assembly.split("Function : ")[1:]:
        name = function.split("\n", 1)[0].strip()
        instructions = [(int(address, 16), operation, rest) for address, operation, rest in INSTRUCTION.findall(function)]
        for end, operation, rest in instructions:
            target = re.search(r"0x([0-9a-f]+)", rest)
            if not operation.startswith("BRA") or target is None or int(target[1], 16) >= end:
                continue
            body = [what for address, what, _ in instructions if int(target[1], 16) <= address <= end]
            multiplications = sum(what.startswith(("FFMA", "DFMA")) for what in body)
            if multiplications >= LEAST:
                found.append((name, len(body), multiplications))
    return found


def main(argv: list[str] | None = None) -> None:
    """Compile, disassemble, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuobjdump", default="cuobjdump")
    parser.add_argument("--real", default="float", choices=("float", "double"))
    options = parser.parse_args(argv)
    for program in ("nvcc", options.cuobjdump):
        if shutil.which(program) is None:
            parser.error(f"{program} is not installed; it comes with CUDA's toolkit")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernels.cu"
        path.write_text(source.text())
        # As CuPy compiles.
        subprocess.run(["nvcc", "-cubin", "-arch=sm_90", "--std=c++17", "-ftz=true", f"-DREAL={options.real}", str(path), "-o",
                        str(path.with_suffix(".cubin"))], check=True)
        assembly = subprocess.run([options.cuobjdump, "-sass", str(path.with_suffix(".cubin"))], check=True, capture_output=True,
                                  text=True).stdout
    print("| kernel | instructions of the loop | multiplications | share, % |\n|---|---|---|---|")
    for name, instructions, multiplications in sorted(loops(assembly)):
        print(f"| {name} | {instructions} | {multiplications} | {100 * multiplications / instructions:.0f} |")


if __name__ == "__main__":
    main()
