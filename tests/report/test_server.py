"""The served page is only reachable on this machine, under its own address."""

from __future__ import annotations

import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.conftest import SCRIPTS
from tests.report.helpers import rollout_rows
from tests.rollout_files import write_rows


def test_server_rejects_other_addresses_hosts_and_files(tmp_path: Path) -> None:
    """Only the address with the token and its rows are served, and only to requests that name this machine as host."""
    write_rows(tmp_path / "r.jsonl", rollout_rows())
    command = [str(SCRIPTS / "ng_view_rollouts"), "+input_jsonl_fpath=r.jsonl", "+serve=true"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            url = process.stdout.readline().split()[0]
            with urllib.request.urlopen(f"{url}rows?file=0&task=1", timeout=300) as reply:
                assert reply.read().count(b"\n") == 2
            root = "/".join(url.split("/")[:3])
            for address, headers in (
                (f"{root}/", {}),
                (f"{url}../../etc/passwd", {}),
                (f"{url}rows?file=9&task=1", {}),
                (url, {"Host": "evil.example:80"}),
            ):
                with pytest.raises(urllib.error.HTTPError) as rejected:
                    urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=300)
                rejected.value.close()
        finally:
            process.terminate()
