"""Notices by mail. A mail that is sent again has the same Message-ID, by which clients show it once."""

import asyncio
import logging
import ssl
from email.message import EmailMessage
from email.utils import formatdate, parseaddr

import aiosmtplib

from services.telemetry.config import NotifyConfig
from services.telemetry.notices import Notice, mail_text, title
from services.telemetry.ports import Undelivered
from shared.errors import Invalid

log = logging.getLogger("drape.telemetry")

RECIPIENTS_MAX = 50


class Mail:
    """The channel `email`: one connection a mail."""

    def __init__(self, config: NotifyConfig) -> None:
        self._config = config
        self._sender = _address(config.email_from, "email_from")
        self._recipients = [_address(each, "email_to") for each in config.email_to.split(",") if each.strip()]
        if not 0 < len(self._recipients) <= RECIPIENTS_MAX:
            raise Invalid("bad_email", f"email_to names 1 to {RECIPIENTS_MAX} addresses, with commas between.", _HINT)
        self._domain = self._sender.rpartition("@")[2]

    @property
    def name(self) -> str:
        return "email"

    async def send(self, notice: Notice) -> None:
        """Returns once the server has taken it. Raises `Undelivered`."""
        config = self._config
        try:
            async with asyncio.timeout(config.timeout_s):
                refused, _ = await aiosmtplib.send(
                    self._message(notice),
                    sender=self._sender,
                    recipients=self._recipients,
                    hostname=config.smtp_host,
                    port=config.smtp_port,
                    username=config.smtp_user or None,
                    password=config.smtp_password or None,
                    use_tls=config.smtp_tls == "tls",
                    start_tls=config.smtp_tls == "starttls",
                    tls_context=None if config.smtp_tls == "none" else ssl.create_default_context(),
                    local_hostname=self._domain,
                    timeout=config.timeout_s,
                )
        except (TimeoutError, aiosmtplib.SMTPException, OSError) as error:
            raise Undelivered(_code_of(error)) from None  # a server's words may repeat what was sent
        if refused:
            log.warning("mail_recipients_refused", extra={"refused": len(refused), "of": len(self._recipients)})

    async def close(self) -> None:
        """No connection outlives its mail."""

    def _message(self, notice: Notice) -> EmailMessage:
        message = EmailMessage()
        message["From"] = self._config.email_from
        message["To"] = ", ".join(self._recipients)
        message["Subject"] = title(notice)
        message["Date"] = formatdate(notice.at)
        message["Message-ID"] = f"<{notice.id}.drape@{self._domain}>"
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(mail_text(notice))
        return message


_HINT = "Set DRAPE_TELEMETRY_NOTIFY_EMAIL_FROM and …_EMAIL_TO where a mail server is set."


def _address(text: str, setting: str) -> str:
    """The bare address. Raises `Invalid`."""
    address = parseaddr(text)[1]
    local, _, domain = address.rpartition("@")
    if not local or not domain or not address.isascii() or not text.strip().isprintable() or " " in address:
        raise Invalid("bad_email", f"{setting} has what is no mail address.", _HINT)
    return address


def _code_of(error: Exception) -> str:
    match error:
        case TimeoutError() | aiosmtplib.SMTPTimeoutError():
            return "timeout"
        case aiosmtplib.SMTPAuthenticationError():
            return "smtp_login_refused"
        case aiosmtplib.SMTPResponseException(code=code):
            return f"smtp_{code}"
        case aiosmtplib.SMTPRecipientsRefused():
            return "smtp_recipients_refused"
        case aiosmtplib.SMTPNotSupported():
            return "smtp_not_supported"
        case ssl.SSLError():
            return "tls"
        case aiosmtplib.SMTPConnectError() | OSError():
            return "tls" if isinstance(error.__cause__, ssl.SSLError) else "unreachable"
        case _:  # the library has no word for this one
            return "smtp_no_starttls" if "STARTTLS" in str(error) else "broken_off"
