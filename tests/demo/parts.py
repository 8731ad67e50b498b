"""The parts of the demo: starts, breaks, repairs, asks and takes down the real nginx, MariaDB, mount and agent."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REGION = "ap-south-1"
# The agent's command that touches the mount, in a process of its own.
EFS_CHILD = "efs-child"
SERVERS_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


class Failed(Exception):
    """Something did not come about within its deadline."""


class Stopped(BaseException):
    """A signal asked the demo to end."""


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path, timeout):
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


@dataclass
class Answer:
    """What one question got; `code` is 0 when nobody answered, and `body` says why."""

    code: int
    agent: str = ""
    body: str = ""
    parsed: dict = field(default_factory=dict)

    @property
    def components(self):
        return self.parsed.get("components", {})

    @property
    def status_word(self):
        return self.parsed.get("status", "")


def free_ports(count):
    """Loopback ports that were free a moment ago."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


class Demo:
    def __init__(self, agent, holds, prefix="dr-agent-demo."):
        self.began = time.monotonic()
        self.agent_binary = agent
        self.holds = holds
        os.umask(0o022)
        self.scratch = Path(tempfile.mkdtemp(prefix=prefix))
        # nginx's workers and the database run under other names and must get in.
        self.scratch.chmod(0o755)
        self.mount = self.scratch / "efs"
        self.mount_control = self.scratch / "mount-control"
        self.public_socket = self.scratch / "run-http/public.sock"
        self.port, self.peer_port, self.database_port = free_ports(3)
        self.running = {}  # name -> Popen
        self.log_starts = {}  # name -> where its present run begins in its log
        # Whatever the parts start in turn carries this mark, so that the last look finds it.
        self.environment = {
            **os.environ,
            "PATH": SERVERS_PATH,
            "LC_ALL": "C.UTF-8",
            "DR_AGENT_DEMO": str(self.scratch),
            # No metadata service here: refused at once instead of asked for.
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:1",
        }
        for name in ("JOURNAL_STREAM", "NOTIFY_SOCKET", "WATCHDOG_USEC", "CREDENTIALS_DIRECTORY"):
            self.environment.pop(name, None)

    # Telling

    def elapsed(self):
        return time.monotonic() - self.began

    def title(self, text):
        print(f"\n── {text} {'─' * max(4, 76 - len(text))}", flush=True)

    def say(self, text):
        print(f"[{self.elapsed():5.1f} s] {text}", flush=True)

    def note(self, text):
        print(f"          {text}", flush=True)

    def show_answers(self, via, *questions):
        for question in questions:
            answer = self.ask(question, via)
            where = "through nginx" if via == "nginx" else "public socket"
            body = answer.body.split(',"components"')[0] + ("…" if ',"components"' in answer.body else "")
            code = answer.code or "---"
            agent = f"X-Dr-Agent: {answer.agent}" if answer.agent else ""
            print(f"          /health/{question:9} {where}  {code}  {agent:18}  {body}", flush=True)

    def command(self, name, expect):
        """Runs the agent's `name` command and lets it print."""
        arguments = [self.agent_binary, name, "--config", self.scratch / "agent.toml"]
        if name == "check":
            arguments += ["--region", REGION]
        print(f"\n$ dr-agent {name}", flush=True)
        code = subprocess.run(arguments, env=self.environment, timeout=25, check=False).returncode
        print(f"(exit code {code})\n", flush=True)
        if code not in expect:
            raise Failed(f"`dr-agent {name}` ended with {code}, expected {' or '.join(map(str, expect))}")

    def show_agent_log(self):
        for log in sorted(self.scratch.glob("agent*.log")):
            print(f"The last words in {log.name}:")
            print(*("  " + line for line in log.read_text(errors="replace").splitlines()[-20:]), sep="\n", flush=True)

    # Asking and waiting

    def ask(self, question, via="nginx"):
        if via == "nginx":
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=3)
        else:
            connection = UnixConnection(self.public_socket, timeout=3)
        try:
            connection.request("GET", f"/health/{question}", headers={"Host": "shop.example.com", "Connection": "close"})
            answer = connection.getresponse()
            body = answer.read().decode(errors="replace").strip()
            try:
                parsed = json.loads(body)
            except ValueError:
                parsed = {}
            return Answer(answer.status, answer.headers.get("X-Dr-Agent", ""), body, parsed if isinstance(parsed, dict) else {})
        except (OSError, http.client.HTTPException) as error:
            return Answer(0, body=error.strerror.lower() if isinstance(error, OSError) and error.strerror else repr(error))
        finally:
            connection.close()

    def wait(self, what, seconds, predicate, since=None):
        """Waits until `predicate` holds; gives the seconds since `since` (or since now)."""
        started = time.monotonic()
        while not predicate():
            for name, process in self.running.items():
                if process.poll() is not None:
                    raise Failed(f"{name} ended by itself with {process.returncode}, before {what}")
            if time.monotonic() - started > seconds:
                raise Failed(f"still not after {seconds} s: {what}")
            time.sleep(0.05)
        return time.monotonic() - (since or started)

    # Starting and stopping

    def start(self, name, command, **options):
        """Starts a part in a session of its own, so that Ctrl-C reaches only the demo, which takes the parts down in order."""
        with open(self.scratch / f"{name}.log", "ab") as log:
            self.log_starts[name] = log.tell()
            self.running[name] = subprocess.Popen(
                [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=self.environment, start_new_session=True, **options,
            )

    def stop(self, name, seconds=10, kill=False):
        process = self.running.pop(name, None)
        if process is None:
            return
        if kill:
            process.kill()
        else:
            process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(seconds)

    def run(self, command, **options):
        done = subprocess.run([str(word) for word in command], env=self.environment, capture_output=True, text=True, timeout=60, check=False, **options)
        if done.returncode:
            raise Failed(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}{done.stderr}")

    def start_nginx(self):
        if not (self.scratch / "nginx.conf").exists():
            self.configure_nginx()
        self.start("nginx", ["nginx", "-c", self.scratch / "nginx.conf", "-e", self.scratch / "nginx.log"])
        self.wait("nginx serves the site", 10, self.serves_the_site)

    def configure_nginx(self):
        (self.scratch / "site").mkdir()
        (self.scratch / "site/index.html").write_text("<!doctype html><title>shop</title><h1>The shop is open</h1>\n")
        (self.scratch / "dr-agent.d").mkdir()
        shipped = (ROOT / "packaging/nginx/dr-agent.conf").read_text()
        for path, ours in (("/run/dr-agent-http/public.sock", self.public_socket), ("/var/lib/dr-agent/public", self.scratch / "state/public")):
            if path not in shipped:
                raise Failed(f"packaging/nginx/dr-agent.conf no longer mentions {path}")
            shipped = shipped.replace(path, str(ours))
        (self.scratch / "dr-agent.d/dr-agent.conf").write_text(shipped)
        temporary = "\n".join(f"    {kind}_temp_path {self.scratch}/nginx-{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        (self.scratch / "nginx.conf").write_text(f"""\
daemon off;
worker_processes 1;
pid {self.scratch}/nginx.pid;
error_log {self.scratch}/nginx.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    default_type text/html;
{temporary}
    server {{
        listen 127.0.0.1:{self.port};
        server_name shop.example.com;
        root {self.scratch}/site;
        include {self.scratch}/dr-agent.d/*.conf;
    }}
}}
""")

    def serves_the_site(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=3)
        try:
            connection.request("GET", "/", headers={"Host": "shop.example.com"})
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def stop_nginx(self):
        self.stop("nginx")

    def start_database(self):
        folder = self.scratch / "database"
        if not folder.exists():
            self.make_database(folder)
        self.start("database", [
            "mariadbd", "--no-defaults", *(["--user=root"] if os.geteuid() == 0 else []), f"--datadir={folder}/data",
            f"--socket={folder}/mariadb.sock", f"--pid-file={folder}/mariadb.pid", "--bind-address=127.0.0.1", f"--port={self.database_port}",
            f"--ssl-ca={folder}/ca.pem", f"--ssl-cert={folder}/server.pem", f"--ssl-key={folder}/server.key", f"--init-file={folder}/init.sql",
            "--skip-name-resolve", "--innodb-buffer-pool-size=32M", "--performance-schema=OFF",
        ])
        self.wait("the database accepts connections", 30, lambda: b"ready for connections" in self.log_of_this_run("database"))

    def log_of_this_run(self, name):
        return (self.scratch / f"{name}.log").read_bytes()[self.log_starts[name] :]

    def make_database(self, folder):
        folder.mkdir()
        (folder / "openssl.cnf").write_text("""\
[req]
distinguished_name = name
prompt = no
[name]
CN = dr-agent demo
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
extendedKeyUsage = serverAuth
subjectAltName = IP:127.0.0.1, DNS:localhost
""")
        request = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-config", folder / "openssl.cnf"]
        self.run([*request, "-extensions", "authority", "-keyout", folder / "ca.key", "-out", folder / "ca.pem"])
        self.run([*request, "-extensions", "server", "-subj", "/CN=localhost", "-CA", folder / "ca.pem", "-CAkey", folder / "ca.key",
                  "-keyout", folder / "server.key", "-out", folder / "server.pem"])
        (folder / "init.sql").write_text(
            "CREATE USER IF NOT EXISTS 'dr_agent'@'%' IDENTIFIED BY 'demo-password' REQUIRE SSL;\n"
            "GRANT REPLICA MONITOR ON *.* TO 'dr_agent'@'%';\n")
        (folder / "password").write_text("demo-password\n")
        (folder / "password").chmod(0o600)
        self.run(["mariadb-install-db", "--no-defaults", *(["--user=root"] if os.geteuid() == 0 else []), f"--datadir={folder}/data",
                  "--auth-root-authentication-method=normal", "--skip-test-db", "--innodb-buffer-pool-size=32M"])

    def stop_database(self):
        self.stop("database", 20)

    def start_mount(self):
        if not os.access("/dev/fuse", os.R_OK | os.W_OK):
            raise Failed("/dev/fuse cannot be opened, so there can be no stand-in mount: run the demo as root on a machine with FUSE")
        if os.geteuid() != 0:
            settings = Path("/etc/fuse.conf").read_text() if Path("/etc/fuse.conf").exists() else ""
            if "user_allow_other" not in settings.split():
                raise Failed("only root may make the stand-in mount: run the demo as root, or put `user_allow_other` into /etc/fuse.conf")
        self.mount.mkdir()
        self.mount_control.mkdir()
        self.start("mount", [ROOT / ".cache/venv/bin/python3", ROOT / "tests/hangfs.py", self.mount, self.mount_control])
        self.wait("the stand-in mount is there", 10, self.is_mounted)
        (self.mount / ".dr-agent").mkdir(mode=0o770)

    def is_mounted(self):
        return any(line.split()[4] == str(self.mount) for line in open("/proc/self/mountinfo"))

    def freeze_mount(self):
        (self.mount_control / "freeze").touch()

    def thaw_mount(self):
        (self.mount_control / "freeze").unlink(missing_ok=True)

    def start_agent(self):
        if not (self.scratch / "agent.toml").exists():
            self.configure_agent()
        self.start("agent", [self.agent_binary, "run", "--config", self.scratch / "agent.toml", "--region", REGION])
        self.wait("the agent answers on its public socket", 10, lambda: self.ask("live", "socket").code == 200)

    def configure_agent(self):
        for folder in ("run", "run-http", "state"):
            (self.scratch / folder).mkdir()
        holds = "\n".join(f'{name} = "{seconds}s"' for name, seconds in self.holds.items())
        (self.scratch / "agent.toml").write_text(f"""\
schema = 1
deployment = "shop-demo"
home = "{REGION}"
state_dir = "{self.scratch}/state"

[listen]
public = "unix:{self.public_socket}"
peer = "127.0.0.1:{self.peer_port}"
control = "{self.scratch}/run/control.sock"

[probe.nginx]
url = "http://127.0.0.1:{self.port}/health/nginx"
pid_file = "{self.scratch}/nginx.pid"

[probe.app]
url = "http://127.0.0.1:{self.port}/"
host = "shop.example.com"
body = "The shop is open"

[probe.efs]
path = "{self.mount}"
types = ["fuse.hangfs"]

[probe.database]
user = "dr_agent"
password_file = "{self.scratch}/database/password"
tls_ca = "{self.scratch}/database/ca.pem"

# This machine's own load is not the subject.
[probe.host]
paths = ["{self.scratch}"]
low = "0%"
full = "0%"
pressure = "100%"

[probe.wiring]
interval = "5s"
timeout = "2s"

[region.{REGION}]
database = "127.0.0.1:{self.database_port}"

# Where users would go. Nobody asks it here.
[region.us-east-1]
database = "127.0.0.1:1"

[verdict]
{holds}
""")

    def stop_agent(self):
        self.stop("agent")

    def kill_agent(self):
        self.stop("agent", kill=True)

    def waiting_on_mount(self):
        """The agents' expendable children, whoever started them."""
        return [pid for pid, command in self.processes() if EFS_CHILD in command]

    # Taking down

    def take_down(self):
        """Ends every part and removes the scratch folder; gives what is left nevertheless."""
        print(f"\n[{self.elapsed():5.1f} s] Taking everything down.", flush=True)
        # A thawed mount lets go of whoever waits on it.
        self.thaw_mount()
        for name in ("agent", "nginx", "database"):
            self.stop(name)
        if self.is_mounted():
            tool = ["umount", "-l"] if os.geteuid() == 0 else ["fusermount3", "-u", "-z"]
            subprocess.run([*tool, str(self.mount)], env=self.environment, capture_output=True, timeout=10, check=False)
        for name in list(self.running):
            self.stop(name)
        for last in (False, True):
            deadline = time.monotonic() + 5
            while self.processes() and time.monotonic() < deadline:
                time.sleep(0.05)
            if not last:
                for pid, _ in self.processes():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
        left = [f"process {pid}: {command}" for pid, command in self.processes()]
        if self.is_mounted():
            left.append(f"mount {self.mount}")
        else:
            shutil.rmtree(self.scratch, ignore_errors=True)
        if self.scratch.exists():
            left.append(f"folder {self.scratch}")
        return left

    def processes(self):
        """Whoever carries our mark in its environment or our folder in its command line."""
        mark = str(self.scratch).encode()
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                command = (entry / "cmdline").read_bytes()
                if mark in command or b"DR_AGENT_DEMO=" + mark in (entry / "environ").read_bytes():
                    found.append((int(entry.name), command.replace(b"\0", b" ").decode(errors="replace").strip()))
            except OSError:
                continue  # it ended, or is somebody else's
        return found
