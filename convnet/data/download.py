"""One download: resumed where it broke off, and stopped as soon as it cannot be what was asked for."""
from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tqdm import tqdm

_CHUNK = 1 << 16
# Where no size is published, nothing larger than this is accepted.
_LARGEST = 1 << 32


class ResumingDownloader:
    """A downloader for pooch that keeps what has arrived in a file of its own and asks for the rest next time.

    Parameters
    ----------
    partial : path
        Where incomplete content is kept between attempts, also of different runs and mirrors.
    size : int, optional
        Bytes that there must be.
    timeout : float
        Seconds to wait for a connection, and for each piece of the answer.
    progress : bool
        Show a progress bar.

    Notes
    -----
    Whether the pieces of several attempts belong together is for the checksum to say, which pooch compares afterwards.
    """

    def __init__(self, partial: Path, size: int | None, timeout: float, progress: bool):
        self.partial, self.size, self.timeout, self.progress = partial, size, timeout, progress

    def __call__(self, url: str, output_file: str, pooch: Any) -> None:
        """Fetch `url` into `output_file`.

        Raises
        ------
        ConnectionError
            If the server cannot be reached, answers with an error, or ends too early.
        ValueError
            If it answers with something else: a web page, or content of another size.
        """
        import requests
        import urllib3

        have = self.partial.stat().st_size if self.partial.exists() else 0
        # Compressed files are wanted as they are, not unpacked on the way.
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        try:
            with requests.get(url, headers=headers, stream=True, timeout=self.timeout) as response:
                if have and response.status_code == 416:          # nothing is left to send
                    if have != self.size:
                        self.partial.unlink()
                        raise ConnectionError("the server has less than was already here; starting anew")
                else:
                    self._receive(response, have)
        except requests.RequestException as error:
            raise ConnectionError(_reason(error)) from error
        except urllib3.exceptions.HTTPError as error:
            raise ConnectionError(f"the connection broke off ({error})") from error
        os.replace(self.partial, output_file)

    def _receive(self, response: Any, have: int) -> None:
        response.raise_for_status()
        if "html" in response.headers.get("Content-Type", "").lower():
            raise ValueError("the server answered with a web page, not with the file")
        start = have if response.status_code == 206 else 0
        if start and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            self.partial.unlink()
            raise ConnectionError("the server resumed at another place; starting anew")
        announced = response.headers.get("Content-Length", "")
        total = start + int(announced) if announced.isdigit() else self.size
        if self.size is not None and total != self.size:
            raise ValueError(f"the server announces {total} bytes, the published file has {self.size}")
        limit = _LARGEST if total is None else total
        if limit > _LARGEST:
            raise ValueError(f"the server announces {limit} bytes; more than {_LARGEST} are not accepted")
        arrived = start
        with open(self.partial, "ab" if start else "wb") as file, tqdm(
                total=total, initial=start, unit="B", unit_scale=True, desc=self.partial.stem.lstrip("."),
                disable=None if self.progress else True) as bar:
            for chunk in response.raw.stream(_CHUNK, decode_content=False):
                arrived += len(chunk)
                if arrived > limit:
                    break
                file.write(chunk)
                bar.update(len(chunk))
            file.flush()
            os.fsync(file.fileno())
        if arrived > limit:
            self.partial.unlink()
            raise ValueError(f"the server sends more than the {limit} bytes it should")
        if total is not None and arrived < total:
            raise ConnectionError(f"the connection ended after {arrived} of {total} bytes")


def _reason(error: Exception) -> str:
    """Return what went wrong in a few words, without the library's internals."""
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server answered {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout):
        return "the server did not answer in time"
    if isinstance(error, requests.ConnectionError):
        return "no connection to the server"
    return str(error)
