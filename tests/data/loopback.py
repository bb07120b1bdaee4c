"""An HTTP server on loopback that serves files well or badly, as told."""
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PAGE = b"<!DOCTYPE html><html><body>Please log in</body></html>"


class Server(ThreadingHTTPServer):
    """Serves `files` (path -> content); `faults` (path -> list) says what goes wrong with the next requests.

    Faults: a status code; "truncate" and "stall" (half the content, then the end or silence); "corrupt"; "html";
    "silent"; "ignore range"; "wrong range"; "larger" (announces and sends more); "endless" (announces nothing, sends
    more); "no length".
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.faults, self.requests = {}, {}, []
        self.released = threading.Event()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}/"

    def handle_error(self, request, client_address):
        """Say nothing when a client hangs up, as it should in many of the tests."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        server = self.server
        wanted = self.headers.get("Range")
        server.requests.append((self.path, wanted))
        content = server.files.get(self.path)
        faults = server.faults.get(self.path, [])
        fault = faults.pop(0) if faults else None
        self.close_connection = True
        if fault == "silent":
            server.released.wait(20)
            return
        if content is None or isinstance(fault, int):
            self.send_error(fault or 404)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and fault != "ignore range" else 0
        if fault == "html":
            content, start = PAGE, 0
        elif fault == "corrupt":
            half = len(content) // 2
            content = content[:half] + bytes([content[half] ^ 1]) + content[half + 1:]
        elif fault in ("larger", "endless"):
            content += b"more"
        if start and start >= len(content):
            self.send_response(416)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", "text/html" if fault == "html" else "application/octet-stream")
        if start:
            shown = start + 1 if fault == "wrong range" else start
            self.send_header("Content-Range", f"bytes {shown}-{len(content) - 1}/{len(content)}")
        if fault not in ("endless", "no length"):
            self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if fault in ("truncate", "stall"):
            self.wfile.write(body[:len(body) // 2])
            self.wfile.flush()
            if fault == "stall":
                server.released.wait(20)
            return
        self.wfile.write(body)


@contextmanager
def serving():
    """Yield a running server."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
