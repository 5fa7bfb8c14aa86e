"""The ports of `shared.ports` on NATS JetStream. The only package that imports `nats`."""
