"""Bodies as they travel: the first member says what they are, so that the `nats` command shows it. Whoever asks or reads
through a port gets what was said, without it."""


def typed(kind: str, body: bytes, member: str = "all") -> bytes:
    """`kind`: of an answer, `<service>.<name>` of what was asked. A list becomes a member; what says its type itself stays."""
    head = b'{"type":"%s"' % kind.encode()
    if body.startswith(b"["):
        return b'%s,"%s":%s}' % (head, member.encode(), body)
    if not body.startswith(b"{") or body.startswith(b'{"type":'):
        return body
    return head + (b"}" if body == b"{}" else b"," + body[1:])


def untyped(kind: str, body: bytes, member: str = "all") -> bytes:
    """What `typed` was given, as far as it has changed it; anything else as it is, as from a replica of before."""
    head = b'{"type":"%s"' % kind.encode()
    if not body.startswith((head + b",", head + b"}")):
        return body
    listed = b'%s,"%s":[' % (head, member.encode())
    if body.startswith(listed):
        return body[len(listed) - 1 : -1]
    rest = body[len(head) :]
    return b"{}" if rest == b"}" else b"{" + rest[1:]
