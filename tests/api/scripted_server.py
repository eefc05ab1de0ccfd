"""An HTTP server with scripted responses, for tests of clients."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

Answer = tuple[int, dict[str, str], bytes]
BUSY = (503, {"retry-after": "0"}, b'{"error": {"code": "busy", "message": "later"}}')
FINE = (200, {}, b'{"id": "run_1", "items": []}')


class Server:
    """Gives the scripted answers, the last one again and again; ``None`` hangs up without one."""

    def __init__(self, *script):
        self.script = list(script)
        self.requests = []
        self.url = ""

    def next(self):
        return self.script.pop(0) if len(self.script) > 1 else self.script[0]


@contextmanager
def scripted_server(*script):
    server = Server(*script)

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            server.requests.append((self.command, self.path, dict(self.headers.items()), body))
            given = server.next()
            if given is None:
                self.close_connection = True
                return
            status, headers, content = given
            self.send_response(status)
            for name, value in {"content-length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PATCH = do_DELETE = answer

        def log_message(self, *_):
            """Quiet."""

    with HTTPServer(("127.0.0.1", 0), Handler) as listening:
        server.url = f"http://127.0.0.1:{listening.server_port}"
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        listening.shutdown()
        thread.join()
