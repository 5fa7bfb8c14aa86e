"""Who may do what on NATS, and by which key: permissions, identities, the server's authorization, contexts for `nats`.

Says nothing about where a server runs: `deploy.local` starts one, and real deployments include what this writes.
"""
