"""Just enough of the two servers' protocols to ask them who may do what."""
from __future__ import annotations

import json
import os
import pathlib
import socket
import subprocess
import time


class Server:
    """A server process of our own on a free port, ended by its id."""

    def __init__(self, command: list[str], port: int, log: pathlib.Path, env: dict[str, str]):
        self.port, self.log = port, log
        self.process = subprocess.Popen(command, stdout=log.open("w"), stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                        env={"PATH": os.defpath, **env})

    def wait(self) -> None:
        """Until it takes connections; an error with its last words when it does not."""
        for _ in range(200):
            if self.process.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.025)
        raise RuntimeError("does not start: " + " ".join(self.log.read_text().splitlines()[-3:]))

    def __enter__(self) -> "Server":
        try:
            self.wait()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Line:
    """A connection that speaks lines."""

    def __init__(self, port: int):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=5)
        # Many small questions, each waiting for its answer.
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile("rb")

    def line(self) -> str:
        return self.file.readline().decode().rstrip("\r\n")

    def close(self) -> None:
        self.file.close()
        self.socket.close()


class Nats(Line):
    """A NATS client: publishes, subscribes, asks, and reports what the server forbids."""

    def __init__(self, port: int, user: str, password: str):
        super().__init__(port)
        self.line()
        options = {"verbose": False, "pedantic": False, "user": user, "pass": password, "headers": True, "no_responders": True}
        try:
            self.send(f"CONNECT {json.dumps(options)}")
            refused = self.flush()
        except ConnectionError as error:
            # The server hangs up on whom it does not know, sometimes before its reason has been read.
            raise PermissionError(str(error)) from error
        if refused:
            raise PermissionError(refused[0])

    def send(self, line: str, payload: bytes | None = None) -> None:
        self.socket.sendall(line.encode() + b"\r\n" + (b"" if payload is None else payload + b"\r\n"))

    def flush(self) -> list[str]:
        """Errors the server has sent until it answered a ping."""
        self.send("PING")
        errors = []
        while (line := self.line()) != "PONG":
            if line.startswith("-ERR"):
                errors.append(line)
            elif line.startswith(("MSG", "HMSG")):
                self.file.read(int(line.split()[-1]) + 2)
            elif line == "" and self.file.peek(1) == b"":
                return [*errors, "-ERR closed"]
        return errors

    def may_publish(self, subject: str) -> bool:
        self.send(f"PUB {subject} 0", b"")
        return not self.flush()

    def may_subscribe(self, subject: str) -> bool:
        self.send(f"SUB {subject} 99")
        errors = self.flush()
        self.send("UNSUB 99")
        return not errors

    def request(self, subject: str, body: dict | bytes) -> dict:
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send("SUB _INBOX.check 1")
        self.send("UNSUB 1 1")
        self.send(f"PUB {subject} _INBOX.check {len(payload)}", payload)
        while True:
            line = self.line()
            if line.startswith(("MSG", "HMSG")):
                answer = self.file.read(int(line.split()[-1]) + 2)
                return json.loads(answer[answer.index(b"{"):]) if b"{" in answer else {"error": answer.decode()}
            if line.startswith("-ERR") or not line:
                return {"error": line}
            if line == "PING":
                self.send("PONG")


class Redis(Line):
    """A Redis client; errors come back as text that begins with a minus sign."""

    def __init__(self, port: int, user: str, password: str):
        super().__init__(port)
        answer = self.ask("AUTH", user, password)
        if answer != "OK":
            raise PermissionError(str(answer))

    def ask(self, *words: str):
        request = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w.encode()), w.encode()) for w in words)
        for _ in range(200):
            self.socket.sendall(request)
            answer = self._answer()
            # A server that has just started reads its log first.
            if not str(answer).startswith("-LOADING"):
                return answer
            time.sleep(0.025)
        return answer

    def _answer(self):
        line = self.line()
        kind, rest = line[:1], line[1:]
        if kind == "$":
            return None if rest == "-1" else self.file.read(int(rest) + 2)[:-2].decode()
        if kind == "*":
            return [self._answer() for _ in range(max(int(rest), 0))]
        return int(rest) if kind == ":" else rest if kind == "+" else line
