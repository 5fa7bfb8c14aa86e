"""The channels that are configured."""

from collections.abc import Mapping
from contextlib import AsyncExitStack

from services.telemetry.adapters.mail import Mail
from services.telemetry.adapters.webhook import slack, webhook
from services.telemetry.config import NotifyConfig
from services.telemetry.ports import Channel

WEBHOOK, SLACK, EMAIL = "webhook", "slack", "email"


def channel_names(config: NotifyConfig) -> tuple[str, ...]:
    """Those that have an address."""
    addresses = {WEBHOOK: config.webhook_url, SLACK: config.slack_url, EMAIL: config.smtp_host}
    return tuple(name for name, address in addresses.items() if address)


async def open_channels(config: NotifyConfig, stack: AsyncExitStack) -> Mapping[str, Channel]:
    """By name; closed with the stack. Raises `Invalid` for settings that can't be meant."""
    channels: dict[str, Channel] = {}
    for name in channel_names(config):
        channel = _made(name, config)
        stack.push_async_callback(channel.close)
        channels[name] = channel
    return channels


def _made(name: str, config: NotifyConfig) -> Channel:
    if name == WEBHOOK:
        return webhook(config.webhook_url, config.webhook_secret, config.timeout_s)
    return slack(config.slack_url, config.timeout_s) if name == SLACK else Mail(config)
