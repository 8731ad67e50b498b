"""The machine that boots, its file server, and how both are driven."""

import json
import signal
import socket
import subprocess
import time

from asking import ask

GANESHA = """\
NFS_CORE_PARAM { NFS_Port = 2049; Bind_addr = 127.0.0.1; Protocols = 4; Enable_NLM = false; Enable_RQUOTA = false; }
NFSV4 { Graceless = true; Minor_Versions = 1; RecoveryBackend = fs; }
EXPORT {
    Export_Id = 1; Path = /; Pseudo = /; Access_Type = RW; Squash = No_Root_Squash; Protocols = 4; Transports = TCP;
    SecType = sys;
    FSAL { Name = MEM; }
}
# Else it keeps no content.
MEM { Inode_Size = 65536; }
LOG { Default_Log_Level = WARN; }
"""
PUBLIC = "/var/lib/dr-agent/public"

# How much slower than a processor of its own, which emulates twenty times slower than it is, the machine may be.
PATIENCE = 4


class Failed(Exception):
    """What should be so is not."""


class Vm:
    """The machine, its file server, and how it is asked."""

    def __init__(self, place, scratch):
        self.place, self.scratch = place, scratch
        self.tools = place / "tools"
        self.qemu = self.server = self.login = None
        self.ssh_port, self.web_port = free_port(), free_port()
        self.began = time.monotonic()

    def say(self, text):
        print(f"{time.monotonic() - self.began:6.1f} s  {text}", flush=True)

    def start_server(self):
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind(("127.0.0.1", 2049))
            except OSError as error:
                raise Failed(f"the file server needs port 2049 of loopback: {error}") from error
        (self.scratch / "ganesha.conf").write_text(GANESHA)
        # In name spaces of its own: what is bound there is gone with it.
        script = (
            'mount --bind /proc "$1/proc" && mount --bind /dev "$1/dev" && mount --bind "$2" "$1/vm/run" && '
            'exec chroot "$1" ganesha.nfsd -F -L /vm/run/ganesha.log -f /vm/run/ganesha.conf -p /vm/run/ganesha.pid'
        )
        (self.tools / "vm/run").mkdir(exist_ok=True)
        command = ["unshare", "--mount", "sh", "-c", script, "server", self.tools, self.scratch]
        log = open(self.scratch / "server.log", "wb")
        self.server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.wait("the file server listens", 30, lambda: connects(2049))

    def start_machine(self, payload):
        forward = f"hostfwd=tcp:127.0.0.1:{self.ssh_port}-:22,hostfwd=tcp:127.0.0.1:{self.web_port}-:80"
        arguments = [
            "-accel", "tcg,thread=multi", "-cpu", "max", "-M", "q35", "-smp", "1", "-m", "768",
            "-nodefaults", "-display", "none", "-serial", "file:/vm/run/console",
            "-kernel", "/vm/vmlinuz", "-initrd", "/vm/initrd",
            "-append", "console=ttyS0 quiet panic=-1 mitigations=off tsc=unstable",
            # What is written is in a file without a name, and outlives a reboot but not the machine.
            "-drive", "file=/vm/disk,format=raw,if=none,id=d0,snapshot=on,cache=unsafe",
            "-device", "virtio-blk-pci,drive=d0",
            "-drive", f"file=/vm/run/{payload.name},format=raw,if=none,id=d1,readonly=on",
            "-device", "virtio-blk-pci,drive=d1",
            "-netdev", f"user,id=n0,{forward}", "-device", "virtio-net-pci,netdev=n0", "-device", "virtio-rng-pci",
        ]
        script = (
            'mount --bind /proc "$1/proc" && mount --bind /dev "$1/dev" && mount --bind "$2" "$1/vm/run" && '
            'root=$1 && shift 2 && exec chroot "$root" qemu-system-x86_64 "$@"'
        )
        command = ["unshare", "--mount", "sh", "-c", script, "machine", self.tools, self.scratch, *arguments]
        log = open(self.scratch / "qemu.log", "wb")
        self.qemu = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def ssh(self, *arguments):
        return [
            "ssh", "-q", "-i", self.place / "key", "-p", str(self.ssh_port), "-o", "StrictHostKeyChecking=no",
            "-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=20", "-o", "BatchMode=yes",
            "-o", f"ControlPath={self.scratch / 'login'}", *arguments, "root@127.0.0.1",
        ]

    def log_in(self):
        """One login for all commands, each of which would take seconds for its own. Where it is not there yet, or no more, they do."""
        self.log_out()
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.login = subprocess.Popen(self.ssh("-M", "-N"), **quiet)

    def log_out(self):
        finish(self.login)
        (self.scratch / "login").unlink(missing_ok=True)

    def run(self, command, limit=120):
        """Runs a shell command on the machine; gives its code and what it said."""
        ssh = [*self.ssh(), command]
        try:
            done = subprocess.run(ssh, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=limit)
        except subprocess.TimeoutExpired:
            return 124, f"no end within {limit} s"
        return done.returncode, done.stdout + done.stderr

    def must(self, command, limit=120):
        code, said = self.run(command, limit)
        end = time.monotonic() + 60 * PATIENCE
        # 255 is that of ssh itself: the machine is too slow to let anybody in.
        while code == 255 and time.monotonic() < end:
            code, said = self.run(command, limit)
        if code != 0:
            raise Failed(f"`{command}` ends with {code}: {said}")
        return said

    def wait(self, what, limit, check):
        """Waits until `check` gives something; says how long it took. The limit is for a processor of its own."""
        limit *= PATIENCE
        began = time.monotonic()
        while True:
            if self.qemu is not None and self.qemu.poll() is not None:
                raise Failed(f"the machine ended: {tail(self.scratch / 'qemu.log')}")
            if self.server is not None and self.server.poll() is not None:
                raise Failed(f"the file server ended: {tail(self.scratch / 'ganesha.log')}{tail(self.scratch / 'server.log')}")
            last = check()
            took = time.monotonic() - began
            if last:
                return took
            if took > limit:
                raise Failed(f"{what}: not within {limit} s\n{self.evidence()}")
            time.sleep(0.1)

    def evidence(self):
        _, said = self.run("cat /run/dr-agent-result/bootstrap.json; dr-agent check; systemctl --failed --no-pager; journalctl -b --no-pager -n 60", 180)
        return f"{said}\nconsole:\n{tail(self.scratch / 'console')}"

    def answer(self, path):
        """Status code of a path, as the load balancer sees it; 0 if nobody answers."""
        return self.answer_by(path)[0]

    def answer_by(self, path):
        """The same, and `X-Dr-Agent`: a generation, or `absent` when it is nginx's own."""
        return ask(self.web_port, path, 3)[:2]

    def agent_answers(self):
        """Waits until the running agent itself answers; says how long it took."""
        return self.wait("the agent answers", 60, lambda: self.answer_by("/health/instance")[1].isdecimal())

    def serves(self):
        """The agent itself says that the instance can serve."""
        code, by = self.answer_by("/health/instance")
        return code == 200 and by.isdecimal()

    def unit(self, name, unit="dr-agent"):
        """A property of a unit."""
        return self.must(f"systemctl show {unit} --property={name} --value").strip()

    def markers(self):
        """The names of the markers that stand."""
        return self.must(f"ls {PUBLIC}").split()

    def journal(self, matches):
        """The newest entry of this boot's journal with these fields."""
        found = []

        def look():
            # With `--grep` nothing found is an error.
            found[:] = self.run(f"journalctl --boot --quiet --output=json --lines=1 {matches} 2>/dev/null")[1].splitlines()
            return found

        self.wait(f"the journal has {matches}", 30, look)
        return json.loads(found[-1])

    def freeze(self):
        """The file server takes connections and answers nothing. Gives how long it took until the agent said so."""
        self.server.send_signal(signal.SIGSTOP)
        return self.wait("the hang is seen", 60, lambda: self.efs() == ("unhealthy", "efs-hung"))

    def thaw(self):
        self.server.send_signal(signal.SIGCONT)

    def units(self):
        """What the agent's unit and that of nginx are."""
        return self.unit("ActiveState"), self.unit("ActiveState", "nginx")

    def report(self):
        """What the running agent says of everything."""
        report = []

        def look():
            try:
                report[:] = [json.loads(self.run("dr-agent status --format json")[1])]
            except ValueError:
                return False
            return True

        self.wait("the agent reports", 30, look)
        return report[0]

    def efs(self):
        """Status and cause of the mount by the running agent."""
        found = [component for component in self.report()["components"] if component["name"] == "efs"]
        return (found[0]["status"], found[0]["cause"]) if found else ("unknown", "no efs")

    def record(self):
        return json.loads(self.must("cat /run/dr-agent-result/bootstrap.json"))

    def part(self, name):
        """Status and words of a part of the newest bootstrap, also before there is one."""
        try:
            items = self.record()["items"]
        except (Failed, ValueError):
            items = []
        return next(((item["status"], item["words"]) for item in items if item["name"] == name), ("unknown", ""))

    def reboot(self, what, meanwhile=lambda: None):
        """Reboots; gives the seconds from where nobody answered until the first 200. `meanwhile` is done as soon as it serves."""
        before = self.must("cat /proc/sys/kernel/random/boot_id")
        self.run("systemctl reboot", 20)
        self.log_out()
        down = self.wait("it goes down", 300, lambda: self.answer("/health/instance") == 0)
        first = self.wait("it serves again", 300, lambda: self.answer("/health/instance") == 200)
        self.wait("it can be asked", 120, lambda: self.run("true")[0] == 0)
        self.log_in()
        after = self.must("cat /proc/sys/kernel/random/boot_id")
        expect(after != before, "it is another boot")
        meanwhile()
        self.run("systemctl is-system-running --wait", 60 * PATIENCE)
        took = self.must("systemd-analyze time | head -1").strip()
        uptime = self.must("systemctl show --property=ActiveEnterTimestampMonotonic --value nginx").strip()
        self.say(f"{what}: `instance` 200 {first:.1f} s after the last answer ({down:.1f} s to go down); nginx up {int(uptime) / 1e6:.1f} s after the kernel; {took}")
        return first

    def stop(self):
        for process in (self.login, self.qemu, self.server):
            finish(process)


def finish(process):
    if process is not None and process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


def expect(so, what):
    if not so:
        raise Failed(f"not so: {what}")


def free_port():
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return trial.getsockname()[1]


def connects(port):
    with socket.socket() as trial:
        trial.settimeout(1)
        return trial.connect_ex(("127.0.0.1", port)) == 0


def tail(path):
    return path.read_text(errors="replace")[-2000:] if path.exists() else ""
