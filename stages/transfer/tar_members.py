"""Members of a tar file, read from front to back in bounded memory and time; none is extracted.

`tarfile` reads extension headers whole, of whatever size they declare, and in some versions of
Python never ends on a negative one.
"""

import gzip
import tarfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO

from stages.transfer.errors import PipelineError

# CIFAR-10 takes 186 MB unpacked. What is skipped is unpacked too, and takes time.
TOTAL_LIMIT = 512 * 2**20
CHUNK = 2**20
GZIP_START = b"\x1f\x8b"
# Long names and times: not needed, because the wanted names are short.
EXTENSIONS = (b"x", b"g", b"X", b"L", b"K")
FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
WITHOUT_CONTENT = (
    tarfile.LNKTYPE,
    tarfile.SYMTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.DIRTYPE,
    tarfile.FIFOTYPE,
)


def read(archive: Path, wanted: Collection[str], limit: int) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the wanted members, in the archive's order.

    Args:
        archive: a tar file, gzipped or not.
        wanted: file names; folders in front of them do not matter.
        limit: bytes in a wanted member, at the most.

    Raises:
        PipelineError: not a whole tar file, it unpacks to more than `TOTAL_LIMIT`, or a wanted
            member is twice there, too large or no plain file.
    """
    seen = set()
    try:
        with archive.open("rb") as file:
            zipped = file.read(len(GZIP_START)) == GZIP_START
            file.seek(0)
            stream = _Stream(gzip.GzipFile(fileobj=file) if zipped else file)
            while any(header := stream.take(tarfile.BLOCKSIZE)):
                member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
                name = Path(member.name).name if member.type not in EXTENSIONS else ""
                is_wanted = name in wanted
                if name in seen:
                    raise PipelineError(f"{archive}: {name} is there twice, expected once")
                if is_wanted and (member.type not in FILES or not 0 <= member.size <= limit):
                    raise PipelineError(
                        f"{archive}: {name} has {member.size} bytes and type {member.type!r}, "
                        f"expected a plain file of at most {limit} bytes"
                    )
                if member.type in WITHOUT_CONTENT:
                    continue
                if member.type not in FILES + EXTENSIONS or member.size < 0:
                    raise tarfile.ReadError(f"a member of type {member.type!r}")
                padding = -member.size % tarfile.BLOCKSIZE
                if is_wanted:
                    seen.add(name)
                    yield name, stream.take(member.size)
                    stream.skip(padding)
                else:
                    stream.skip(member.size + padding)
    except (tarfile.TarError, EOFError, OSError, ValueError, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise PipelineError(f"{archive}: not a whole tar.gz archive: {reason}") from error


class _Stream:
    """Reads a file on and on, to a limit, and never fewer bytes than are asked for."""

    def __init__(self, file: IO[bytes] | gzip.GzipFile) -> None:
        self._file = file
        self._left = TOTAL_LIMIT

    def take(self, size: int) -> bytes:
        self._left -= size
        if self._left < 0:
            raise ValueError(f"it unpacks to more than {TOTAL_LIMIT} bytes")
        chunks = []
        while size:  # a gzip file gives less than is asked for
            chunk = self._file.read(min(size, CHUNK))
            if not chunk:
                raise EOFError("it ends early")
            size -= len(chunk)
            chunks.append(chunk)
        return b"".join(chunks)

    def skip(self, size: int) -> None:
        while size:
            size -= len(self.take(min(size, CHUNK)))
