"""What throw-away containers run to set up and to try the VMs' network. Its text is sent to them: Python's own library only.

`guard BRIDGE KEY ALLOWED`: in the host's network, as root with NET_ADMIN alone: puts firewall rules between the bridge and
all that is private, then listens, to be tried. `unguard BRIDGE KEY`: takes them away. `listen`: in the VMs' network, to be
tried. `probe FORBIDDEN RESOLVED`: as a VM: says what it reaches. Each says one line of JSON on standard output.
"""

import json
import socket
import subprocess
import sys
import threading
import time

PRIVATE = (
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"),
    *("224.0.0.0/4", "240.0.0.0/4"),
)
LISTEN_S_MAX = 120.0
CONNECT_S = 2.0
PORT = 4711


def say(**what: object) -> None:
    print(json.dumps(what), flush=True)


def iptables(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    command = "iptables-restore" if text is not None else "iptables"
    return subprocess.run(
        [command, "-w", "20", *arguments], input=text, capture_output=True, text=True, timeout=60, check=False
    )


def resolvers() -> list[str]:
    """Where the host resolves names: the one private address that VMs may need."""
    with open("/etc/resolv.conf") as file:
        words = [line.split() for line in file]
    return [word[1] for word in words if len(word) > 1 and word[0] == "nameserver" and ":" not in word[1]]


def chains(key: str) -> tuple[str, str]:
    """For what goes through the host, and for what goes to it."""
    return f"DRAPE-{key}", f"DRAPE-{key}-HOST"


def rules(bridge: str, key: str, allowed: list[str], refuse: str) -> str:
    """What iptables-restore takes; a chain that is named is emptied first, all in one step."""
    through, to_host = chains(key)
    lines = ["*filter", f":{through} - [0:0]", f":{to_host} - [0:0]"]
    for chain in (through, to_host):
        lines.append(f"-A {chain} -m conntrack --ctstate ESTABLISHED,RELATED -j RETURN")
        for address in resolvers():
            lines += [f"-A {chain} -d {address} -p {kind} --dport 53 -j RETURN" for kind in ("udp", "tcp")]
    lines += [f"-A {through} -d {each} -j RETURN" for each in allowed]
    lines += [f"-A {through} -d {each} -j {refuse}" for each in PRIVATE]
    lines.append(f"-A {to_host} -j {refuse}")
    return "\n".join([*lines, "COMMIT", ""])


def guard(bridge: str, key: str, allowed: list[str]) -> str:
    """Empty where the rules stand; else why they don't."""
    for refuse in ("REJECT", "DROP"):  # not every kernel can refuse
        done = iptables("--noflush", text=rules(bridge, key, allowed, refuse))
        if done.returncode == 0:
            break
    else:
        return done.stderr.strip()
    for chain, target in jumps(key):
        if iptables("-C", chain, "-i", bridge, "-j", target).returncode != 0:
            done = iptables("-I", chain, "1", "-i", bridge, "-j", target)
            if done.returncode != 0:
                return done.stderr.strip()
    return ""


def jumps(key: str) -> list[tuple[str, str]]:
    """Docker keeps DOCKER-USER ahead of its own rules, also when it starts anew."""
    through, to_host = chains(key)
    before = "DOCKER-USER" if iptables("-n", "-L", "DOCKER-USER").returncode == 0 else "FORWARD"
    return [(before, through), ("INPUT", to_host)]


def unguard(bridge: str, key: str) -> None:
    for chain, target in jumps(key):
        iptables("-D", chain, "-i", bridge, "-j", target)
        iptables("-F", target)
        iptables("-X", target)


def own_address() -> str:
    """The host's address towards the internet; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return ""
        return str(probe.getsockname()[0])


def listen(port: int, **more: object) -> None:
    with socket.create_server(("", port)) as server:
        say(port=server.getsockname()[1], **more)
        time.sleep(LISTEN_S_MAX)


def reaches(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), CONNECT_S).close()
    except OSError:
        return False
    return True


def probe(forbidden: list[str], wanted: str) -> None:
    """Tries all at once. `answers`: whether `wanted` is reached; `resolves`: whether its name is found at all."""
    reached: list[str] = []
    found = {"resolves": True, "answers": True}

    def attempt(address: str) -> None:
        host, _, port = address.rpartition(":")
        if reaches(host, int(port)):
            reached.append(address)

    def look() -> None:
        host, _, port = wanted.rpartition(":")
        try:
            socket.getaddrinfo(host, int(port))
        except OSError:
            found["resolves"] = False
        found["answers"] = found["resolves"] and reaches(host, int(port))

    tries = [threading.Thread(target=attempt, args=(each,)) for each in forbidden]
    tries += [threading.Thread(target=look)] if wanted else []
    for each in tries:
        each.start()
    for each in tries:
        each.join()
    say(reached=sorted(reached), **found)


def main(verb: str, *arguments: str) -> None:
    if verb == "guard":
        bridge, key, allowed = arguments
        try:
            why = guard(bridge, key, [each for each in allowed.split(",") if each])
        except (OSError, subprocess.SubprocessError) as error:
            why = str(error)
        listen(0, why=why, address=own_address())
    elif verb == "unguard":
        unguard(*arguments)
        say(done=True)
    elif verb == "listen":
        listen(PORT)
    elif verb == "probe":
        forbidden, wanted = arguments
        probe([each for each in forbidden.split(",") if each], wanted)


if __name__ == "__main__":
    main(*sys.argv[1:])
