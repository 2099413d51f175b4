"""A real S3 server on this machine, in a process of its own, so that it can be stopped and started again."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError

BUCKET = "metabench-bucket"

CANARY = "CANARY-secret-that-no-file-may-hold"

CODE = """
import sys
from moto.server import main
main(["-H", sys.argv[1], "-p", sys.argv[2]])
"""


class Server:
    """The server, by host and port."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.host = host
        with socket.socket() as probe:
            probe.bind((host, 0))
            self.port = probe.getsockname()[1]
        self.environment = {
            "AWS_ACCESS_KEY_ID": "somebody",
            "AWS_SECRET_ACCESS_KEY": CANARY,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://{host}:{self.port}",
        }
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Return the address of a folder in its bucket."""
        return f"s3://{BUCKET}/searches"

    def start(self) -> None:
        """Start it, with an empty bucket."""
        self.process = subprocess.Popen(
            [sys.executable, "-c", CODE, self.host, str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(300):
            with contextlib.suppress(BotoCoreError):
                self.client().create_bucket(Bucket=BUCKET)
                return
            time.sleep(0.1)
        raise RuntimeError("the S3 server does not start")

    def stop(self) -> None:
        """Stop it; what it held is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def client(self) -> boto3.client:
        """Return Amazon's own client of it."""
        return boto3.client(
            "s3",
            endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            aws_access_key_id="somebody",
            aws_secret_access_key=CANARY,
            region_name="us-east-1",
            config=Config(retries={"max_attempts": 0}),
        )

    def objects(self) -> dict[str, bytes]:
        """Return everything in the bucket."""
        contents = {}
        for page in self.client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
            for item in page.get("Contents", []):
                body = self.client().get_object(Bucket=BUCKET, Key=item["Key"])["Body"]
                contents[item["Key"]] = body.read()
        return contents


@contextlib.contextmanager
def running() -> Iterator[Server]:
    """Run a server, and let this process find it."""
    server = Server()
    server.start()
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in server.environment.items():
                patch.setenv(name, value)
            yield server
    finally:
        server.stop()


def without_credentials(environment: dict[str, str]) -> dict[str, str]:
    """Return an environment without anything of AWS."""
    return {name: value for name, value in environment.items() if not name.startswith("AWS_")}


def here() -> dict[str, str]:
    """Return this process's environment."""
    return dict(os.environ)
