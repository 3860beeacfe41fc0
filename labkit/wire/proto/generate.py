"""Generate `inference_pb2.py` and its type stub from `inference.proto`, beside it."""

import sys
from pathlib import Path

HERE = Path(__file__).parent


def generate(folder: Path = HERE) -> None:
    """Write the generated modules into `folder`.

    Raises:
        SystemExit: protoc refused the file.
    """
    from grpc_tools import protoc

    # The path inside the package becomes the module's name in the descriptor pool.
    code = protoc.main(
        [
            "protoc",
            f"-I{HERE}",
            f"--python_out={folder}",
            f"--pyi_out={folder}",
            str(HERE / "inference.proto"),
        ]
    )
    if code:
        sys.exit(code)


if __name__ == "__main__":
    generate()
