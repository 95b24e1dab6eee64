"""Brokers that are measured, and the client that measures them."""

import json
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
HOST = "127.0.0.1"
START_SECONDS = 90
STOP_SECONDS = 60


class NotRun(Exception):
    """A peer that cannot be measured here, and why."""


def free_port():
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def pinned(cpu, command):
    return ["taskset", "-c", str(cpu), *command]


def listens(port):
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) == 0


class Broker:
    """A broker on an empty directory, from `with` to its end."""

    def __init__(self, command, port, dir, cpu):
        self.command, self.port, self.dir, self.cpu = command, port, dir, cpu

    def __enter__(self):
        self.log = open(self.dir / "output", "wb")
        self.process = subprocess.Popen(
            pinned(self.cpu, self.command), stdin=subprocess.DEVNULL, stdout=self.log,
            stderr=subprocess.STDOUT, cwd=self.dir)
        deadline = time.monotonic() + START_SECONDS
        while not listens(self.port):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                tail = (self.dir / "output").read_text(errors="replace")[-2000:]
                raise NotRun(f"it does not start: {tail}")
            time.sleep(0.05)
        return self

    def __exit__(self, *_):
        self.stop()
        shutil.rmtree(self.dir)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()

    def cpu_seconds(self):
        """Time that its threads have run."""
        total = 0
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            try:
                total += int((task / "schedstat").read_text().split()[0])
            except FileNotFoundError:
                pass  # The thread has ended since.
        return total / 1e9

    def resident_mib(self):
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise RuntimeError("no VmRSS")


class Corelane:
    def __init__(self, args, synced, settings=()):
        self.name, self.synced, self.bin = "corelane", synced, args.corelane
        self.settings = ["corelane.cores=1", "corelane.memory=2g", *settings]

    def start(self, dir, cpu):
        """Starts it on `dir`, on the processor `cpu` (or several: "0,1")."""
        port = free_port()
        settings = [f"listeners=PLAINTEXT://{HOST}:{port}", f"log.dirs={dir / 'data'}",
                    "corelane.admin.listener=", *self.settings]
        if not self.synced:
            settings.append("log.flush.interval.messages=9223372036854775807")
        command = [self.bin, "serve"]
        for setting in settings:
            command += ["--set", setting]
        return Broker(command, port, dir, cpu)


class Kafka:
    # bin/kafka-run-class.sh and bin/kafka-server-start.sh.
    JVM = ["-server", "-Xms1G", "-Xmx1G", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20",
           "-XX:InitiatingHeapOccupancyPercent=35", "-XX:+ExplicitGCInvokesConcurrent",
           "-Djava.awt.headless=true"]

    def __init__(self, args, synced):
        self.name, self.synced = "kafka", synced
        jars = args.store / "jars"
        for tool in ("java", "mvn"):
            if shutil.which(tool) is None:
                raise NotRun(f"{tool} is not installed")
        if not list(jars.glob("kafka_*.jar")):
            maven = subprocess.run(
                ["mvn", "--batch-mode", "--quiet", "--file", HERE / "pom.xml",
                 "dependency:copy-dependencies", "-DincludeScope=runtime",
                 f"-DoutputDirectory={jars}"],
                capture_output=True, text=True)
            if maven.returncode != 0:
                raise NotRun(f"its jars cannot be fetched: {maven.stdout.strip()[-300:]}")
        self.java = ["java", *self.JVM, "-classpath", f"{jars}/*"]

    def start(self, dir, cpu):
        port, controller = free_port(), free_port()
        properties = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@{HOST}:{controller}",
            "listeners": f"PLAINTEXT://{HOST}:{port},CONTROLLER://{HOST}:{controller}",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": dir / "data",
            "offsets.topic.replication.factor": 1,
        }
        if self.synced:
            properties["log.flush.interval.messages"] = 1
        file = dir / "server.properties"
        file.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
        format = subprocess.run(
            [*self.java, "kafka.tools.StorageTool", "format",
             "--cluster-id", "corelanePeersBench0000", "--config", file],
            capture_output=True, text=True)
        if format.returncode != 0:
            raise NotRun(f"its storage cannot be formatted: {format.stderr.strip()[-300:]}")
        return Broker([*self.java, "kafka.Kafka", str(file)], port, dir, cpu)


class Redpanda:
    def __init__(self, args, synced):
        self.name, self.synced = "redpanda", synced
        if shutil.which("redpanda") is None:
            raise NotRun("redpanda is not installed")
        if not synced:
            raise NotRun("it is measured synced only, as it is set up by default")

    def start(self, dir, cpu):
        port, admin, rpc = free_port(), free_port(), free_port()
        address = lambda port: f"{{address: {HOST}, port: {port}}}"
        file = dir / "redpanda.yaml"
        file.write_text(
            f"redpanda:\n  data_directory: {dir / 'data'}\n  node_id: 1\n  seed_servers: []\n"
            f"  rpc_server: {address(rpc)}\n  kafka_api: [{address(port)}]\n"
            f"  admin: [{address(admin)}]\n")
        return Broker(["redpanda", "--redpanda-cfg", str(file), "--smp", "1", "--memory", "2G",
                       "--overprovisioned", "--default-log-level=warn"], port, dir, cpu)


class Bench:
    """The client."""

    def __init__(self, args, broker):
        self.args, self.broker = args, broker

    def command(self, kind, topic, *options):
        return pinned(self.args.client_cpu, [
            self.args.corelane, "bench", kind, "--topic", topic, "--json",
            "--bootstrap", f"{HOST}:{self.broker.port}", *options])

    def run(self, kind, topic, *options):
        """What was measured, and the broker's CPU seconds meanwhile."""
        cpu = self.broker.cpu_seconds()
        process = subprocess.Popen(self.command(kind, topic, *options), text=True,
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE)
        return self.result(process), self.broker.cpu_seconds() - cpu

    def result(self, process):
        """What a command has measured, once it has ended."""
        output, errors = process.communicate()
        if process.returncode != 0:
            raise RuntimeError(f"{' '.join(map(str, process.args))}: {(errors or '').strip()}")
        return json.loads(output)

    def second_client(self, topic, work):
        """Records a second that one librdkafka producer gets through with these
        arguments of `corelane bench`."""
        option = lambda name: work[work.index(name) + 1]
        command = pinned(self.args.client_cpu, [
            self.args.librdkafka, f"{HOST}:{self.broker.port}", topic,
            option("--record-size"), option("--batch-size"), str(self.args.seconds)])
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              check=True)
        return json.loads(done.stdout)["records_per_second"]


def build(*arguments):
    """The executable that cargo makes of `arguments`."""
    made = subprocess.run(["cargo", *arguments, "--message-format=json"], cwd=ROOT, check=True,
                          stdout=subprocess.PIPE, text=True)
    rows = (json.loads(line) for line in made.stdout.splitlines())
    return Path([row["executable"] for row in rows if row.get("executable")][-1])


def show(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
