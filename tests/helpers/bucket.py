"""A made-up Google Cloud Storage on this machine, so that `gs://` is tried with the real clients.

    python -m tests.helpers.bucket FOLDER

serves its bucket from memory and writes FOLDER/variables.json, the environment in which TensorFlow
(etils' paths), TensorStore (arrays of Orbax) and Google's own client (Orbax) talk to it. TensorFlow
knows only the address of the real service, so the server is its proxy as well and answers in the
name of that address, with a certificate that it makes itself. Objects are there as a whole or not
at all, as in the original.
"""

import contextlib
import hashlib
import itertools
import json
import os
import re
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

BUCKET = "runs"
NAMES = ("www.googleapis.com", "storage.googleapis.com", "oauth2.googleapis.com")
STAMP = "2026-01-01T00:00:00.000Z"


@contextlib.contextmanager
def served(folder: Path) -> Iterator[dict[str, str]]:
    """The environment of a server, which ends with the block."""
    command = [sys.executable, "-m", "tests.helpers.bucket", str(folder)]
    cwd = Path(__file__).parents[2]
    # It ends with this process, whose end closes its input.
    with subprocess.Popen(command, cwd=cwd, stdin=subprocess.PIPE) as process:
        try:
            while not (folder / "variables.json").exists():
                assert process.poll() is None, "the made-up bucket did not start"
                time.sleep(0.02)
            yield json.loads((folder / "variables.json").read_text())
        finally:
            process.terminate()


class Objects:
    """The content of the bucket."""

    def __init__(self) -> None:
        self.lock, self._numbers = threading.Lock(), itertools.count(1)
        self._content: dict[str, tuple[bytes, int]] = {}
        self.uploads: dict[str, tuple[str, bytes]] = {}  # begun, by id

    def put(self, name: str, content: bytes) -> dict:
        """Writes an object; its description."""
        with self.lock:
            self._content[name] = content, next(self._numbers)
        return self.about(name)

    def get(self, name: str) -> tuple[bytes, int] | None:
        """(content, generation); None where there is none."""
        return self._content.get(name)

    def delete(self, name: str) -> bool:
        """Whether it was there."""
        with self.lock:
            return self._content.pop(name, None) is not None

    def about(self, name: str) -> dict:
        """The description of an object."""
        content, generation = self._content[name]
        return {
            "kind": "storage#object", "name": name, "bucket": BUCKET, "size": str(len(content)),
            "generation": str(generation), "metageneration": "1", "updated": STAMP,
            "timeCreated": STAMP, "etag": hashlib.md5(content).hexdigest(),
        }  # fmt: skip

    def listed(self, prefix: str, delimiter: str, start: str, end: str) -> dict:
        """Objects and folders below a prefix."""
        items, prefixes = [], {}
        with self.lock:
            names = sorted(self._content)
        for name in names:
            if not name.startswith(prefix) or name < start or (end and name >= end):
                continue
            inside = name[len(prefix) :]
            if delimiter and delimiter in inside:
                prefixes[prefix + inside.split(delimiter)[0] + delimiter] = None
            else:
                items.append(self.about(name))
        return {"kind": "storage#objects", "items": items, "prefixes": list(prefixes)}


class Answers(BaseHTTPRequestHandler):
    """The part of the JSON and of the XML interface that the two clients use."""

    protocol_version = "HTTP/1.1"
    objects: Objects
    certificate: ssl.SSLContext

    def do_CONNECT(self) -> None:
        """A client that asks for a proxy: this one is the other end, too."""
        self.send_response(200)
        self.end_headers()
        self.connection = self.certificate.wrap_socket(self.connection, server_side=True)
        self.rfile = self.connection.makefile("rb", -1)
        self.wfile = self.connection.makefile("wb", 0)
        self.close_connection = False

    def do_GET(self) -> None:
        """Reads an object, its description, a list, or the bucket."""
        path, query = self._asked()
        if path == f"/storage/v1/b/{BUCKET}":
            return self._say({"name": BUCKET, "location": "US"})
        if path == f"/storage/v1/b/{BUCKET}/o":
            names = ("prefix", "delimiter", "startOffset", "endOffset")
            return self._say(self.objects.listed(*(query.get(name, "") for name in names)))
        described = re.fullmatch(rf"/storage/v1/b/{BUCKET}/o/([^/]+)", path)
        read = re.fullmatch(rf"/{BUCKET}/(.+)", path)
        if not (described or read):
            return self._missing()
        name = unquote((described or read)[1])
        entry = self.objects.get(name)
        if entry is None:
            return self._missing()
        if described and query.get("alt") != "media":
            return self._say(self.objects.about(name))
        self._send(*entry)

    def do_POST(self) -> None:
        """Writes an object, begins to, or copies one."""
        path, query = self._asked()
        body = self._body()
        copied = re.fullmatch(r"/storage/v1/b/[^/]+/o/([^/]+)/rewriteTo/b/[^/]+/o/([^/]+)", path)
        if copied:
            one, other = map(unquote, copied.groups())
            entry = self.objects.get(one)
            if entry is None:
                return self._missing()
            return self._say({"done": True, "resource": self.objects.put(other, entry[0])})
        if path != f"/upload/storage/v1/b/{BUCKET}/o":
            return self._missing()
        if query["uploadType"] == "resumable":
            number = f"{len(self.objects.uploads)}"
            self.objects.uploads[number] = query["name"], b""
            where = f"https://{NAMES[0]}/session?upload_id={number}"
            return self._say({}, location=where)
        if query.get("ifGenerationMatch") == "0" and self.objects.get(query["name"]):
            return self._say({"error": {"code": 412, "message": "it is there"}}, code=412)
        self._say(self.objects.put(query["name"], body))

    def do_PUT(self) -> None:
        """A part of an object that was begun."""
        _, query = self._asked()
        body, number = self._body(), query["upload_id"]
        name, before = self.objects.uploads[number]
        whole = before + body
        self.objects.uploads[number] = name, whole
        total = self.headers.get("Content-Range", "bytes 0-0/*").rpartition("/")[2]
        if total == "*" or int(total) > len(whole):
            return self._say({}, code=308)
        self._say(self.objects.put(name, whole))

    def do_DELETE(self) -> None:
        """Removes an object."""
        path, _ = self._asked()
        name = unquote(path.removeprefix(f"/storage/v1/b/{BUCKET}/o/"))
        if not self.objects.delete(name):
            return self._missing()
        self._say(None, code=204)

    def _asked(self) -> tuple[str, dict[str, str]]:
        address = urlsplit(self.path)
        query = parse_qs(address.query, keep_blank_values=True)
        return address.path, {name: values[0] for name, values in query.items()}

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(self, content: bytes, generation: int) -> None:
        """The bytes of an object, or those of a range."""
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        begin, end = 0, len(content)
        if part:
            begin = int(part[1])
            end = min(int(part[2]) + 1, end) if part[2] else end
            if begin >= len(content):
                return self._say({}, code=416)
        self.send_response(206 if part else 200)
        if part:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(content)}")
        self.send_header("x-goog-generation", str(generation))
        self.send_header("Content-Length", str(end - begin))
        self.end_headers()
        self.wfile.write(content[begin:end])

    def _missing(self) -> None:
        self._say({"error": {"code": 404, "message": "No such object"}}, code=404)

    def _say(self, content: dict | None, *, code: int = 200, location: str = "") -> None:
        text = b"" if content is None else json.dumps(content).encode()
        self.send_response(code)
        if location:
            self.send_header("Location", location)
        self.send_header("Content-Length", str(len(text)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *words) -> None:
        """Says nothing, or each request where BUCKET_LOG names a file."""
        if "BUCKET_LOG" in os.environ:
            with open(os.environ["BUCKET_LOG"], "a") as file:
                file.write(f"{words[1:]} {self.headers.get('Range', '')}\n")


def _certificate(folder: Path) -> Path:
    """A file with a key and a certificate for NAMES."""
    names = ",".join(f"DNS:{name}" for name in NAMES)
    command = ["openssl", "req", "-x509", "-nodes", "-days", "2", "-newkey", "ec",
               "-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=a made-up bucket",
               "-addext", f"subjectAltName={names}",
               "-keyout", folder / "key.pem", "-out", folder / "certificate.pem"]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    return folder / "certificate.pem"


def main(folder: Path) -> None:
    """Serves until its input ends."""
    certificate = _certificate(folder)
    Answers.objects, Answers.certificate = Objects(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    Answers.certificate.load_cert_chain(certificate, folder / "key.pem")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.daemon_threads = True
    here = f"http://127.0.0.1:{server.server_port}"
    variables = {
        "https_proxy": here,
        "no_grpc_proxy": "127.0.0.1",  # the processes of a job talk to each other
        "CURL_CA_BUNDLE": str(certificate),
        "TENSORSTORE_GCS_HTTP_URL": here,
        "STORAGE_EMULATOR_HOST": here,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
    }
    (folder / "partial").write_text(json.dumps(variables))
    (folder / "partial").rename(folder / "variables.json")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
