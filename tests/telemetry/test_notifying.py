"""Notices to real receivers on this machine: a webhook, Slack's shape, a mail server; with failures, until they have it."""

import asyncio
import base64
import hashlib
import hmac
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.telemetry.adapters.channels import channel_names, open_channels
from services.telemetry.adapters.webhook import signed, signing_key
from services.telemetry.app import alert_queries, definition, effects
from services.telemetry.config import AlertConfig, NotifyConfig, TelemetryConfig
from services.telemetry.model import Told
from services.telemetry.notices import Notice, slack_body, trial
from services.telemetry.ports import Undelivered
from services.telemetry.react import REACTS_TO
from services.telemetry.state import State
from services.telemetry.views import alerts
from shared.errors import Invalid, NotFound
from shared.events import AlertCleared, AlertRaised, Event
from shared.memory import MemoryBroker
from shared.runtime import Runtime
from tests.deploy.waiting import eventually

from .receivers import HOST, PASSWORD, certificate_in, free_port, mail_server, receiver

RAISED = AlertRaised(
    alert="pool_empty", message="No <VM> & nobody.", since=1.0, severity="critical", value=31.5, threshold=30.0
)
SECRET = "webhook-secret-0123"


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A mail server's; this process trusts it."""
    path = certificate_in(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    return path


def config_of(**knobs: Any) -> NotifyConfig:
    """Quick pauses."""
    quick = {"timeout_s": 20.0, "retry_s": 0.01, "retry_max_s": 0.02, "attempts_max": 4}
    return NotifyConfig(**{**quick, **knobs})


def mail_config(port: int, **knobs: Any) -> NotifyConfig:
    where = {"smtp_host": HOST, "smtp_port": port, "smtp_tls": "none", "email_from": "Drape <drape@example.org>"}
    return config_of(**{**where, "email_to": "ann@example.org, ben@example.org", **knobs})


@asynccontextmanager
async def replica(config: NotifyConfig, broker: MemoryBroker | None = None) -> AsyncIterator[Runtime[State]]:
    """Telemetry's loop with these channels; its log begins with what the broker holds."""
    broker = broker or MemoryBroker()
    parts = definition(TelemetryConfig(alerts_period_s=3_600), AlertConfig(), channel_names(config))
    async with AsyncExitStack() as stack:
        runtime = Runtime(parts, broker.bus({"telemetry": REACTS_TO}))
        stack.push_async_callback(runtime.stop)
        await runtime.start()
        performing, _ = effects(runtime, await open_channels(config, stack), AlertConfig(), config)
        await runtime.serve(performing.perform)
        yield runtime


async def told(runtime: Runtime[State], count: int) -> list[Told]:
    """What is shown of so many notices."""

    def shown() -> list[Told]:
        view = alerts(runtime.state, 0.0)
        return [each for alert in (*view.alerts, *view.recent) for each in alert.notifications]

    async def enough() -> bool:
        return len(shown()) >= count

    await eventually(enough, 60)
    return shown()


def tell(broker: MemoryBroker, *events: Event) -> None:
    for event in events:
        broker.record(event)


# --- what they get ------------------------------------------------------------------------------------------------


async def test_a_webhook_gets_json_that_is_signed_and_says_what_it_is() -> None:
    """As Standard Webhooks has it: whoever has the secret can tell that it is ours, and when it was sent."""
    broker = MemoryBroker()
    async with receiver() as hook, replica(config_of(webhook_url=hook.url, webhook_secret=SECRET), broker) as runtime:
        tell(broker, RAISED)
        (first,) = await told(runtime, 1)
        tell(broker, AlertCleared(alert="pool_empty", lasted_s=75.0, severity="critical", value=0.0, threshold=30.0))
        await told(runtime, 2)

    headers, body = hook.got[0]
    assert body.startswith(b'{"type":"alert_raised","id":"')
    said = msgspec.json.decode(body)
    assert (said["alert"], said["severity"], said["value"], said["since"]) == ("pool_empty", "critical", 31.5, 1.0)
    assert headers["webhook-id"] == said["id"] == broker.records[0].meta.id
    text = f"{said['id']}.{headers['webhook-timestamp']}.".encode() + body
    mac = base64.b64encode(hmac.digest(SECRET.encode(), text, hashlib.sha256)).decode()
    assert headers["webhook-signature"] == f"v1,{mac}"
    assert (first.channel, first.kind, first.attempts, first.code) == ("webhook", "raised", 1, "")
    end = msgspec.json.decode(hook.got[1][1])
    assert (end["type"], end["message"]) == ("alert_cleared", "It is over, after 1 min 15 s.")


async def test_slack_gets_its_own_shape() -> None:
    """A text, and an attachment whose colour says how bad it is; its control characters are escaped."""
    broker = MemoryBroker()
    async with receiver() as hook, replica(config_of(slack_url=hook.url), broker) as runtime:
        tell(broker, RAISED)
        await told(runtime, 1)

    headers, body = hook.got[0]
    said = msgspec.json.decode(body)
    (attachment,) = said["attachments"]
    assert headers["content-type"] == "application/json"
    assert said["text"] == "[drape] CRITICAL: pool_empty"
    assert attachment["text"] == "No &lt;VM&gt; &amp; nobody."
    assert [(each["title"], each["value"]) for each in attachment["fields"]] == [
        ("Measured", "31.5"),
        ("Threshold", "30"),
    ]


async def test_a_mail_goes_to_all_recipients(certificate: Path) -> None:
    """With an id that stays the same, and the log-in that is set, once the connection is encrypted."""
    broker = MemoryBroker()
    async with mail_server(certificate) as (mailbox, port):
        config = mail_config(port, smtp_tls="starttls", smtp_user="drape", smtp_password=PASSWORD)
        async with replica(config, broker) as runtime:
            tell(broker, RAISED)
            (shown,) = await told(runtime, 1)

    ((recipients, mail),) = mailbox.mails
    assert shown.channel == "email"
    assert recipients == ["ann@example.org", "ben@example.org"]
    assert mail["Subject"] == "[drape] CRITICAL: pool_empty"
    assert mail["Message-ID"] == f"<{broker.records[0].meta.id}.drape@example.org>"
    assert "No <VM> & nobody." in mail.get_payload()
    assert mailbox.users == [(b"drape", PASSWORD.encode())]


# --- failures -----------------------------------------------------------------------------------------------------


async def test_a_receiver_that_fails_and_hangs_gets_it_in_the_end() -> None:
    """The same notice, under the same id; what it took is told."""
    broker = MemoryBroker()
    async with receiver() as hook:
        hook.answers = [500, "hang", 503]
        async with replica(config_of(webhook_url=hook.url, timeout_s=1.0, attempts_max=30), broker) as runtime:
            tell(broker, RAISED)
            (shown,) = await told(runtime, 1)

    assert (shown.attempts, shown.code) == (len(hook.got), "")
    assert len(hook.got) >= 4
    assert len({body for _, body in hook.got}) == 1
    assert [recorded.type for recorded in broker.records] == ["AlertRaised", "AlertNotified"]


async def test_what_is_refused_to_the_last_is_given_up_and_told() -> None:
    """A redirect is not followed; nothing is parked, nothing names the address."""
    broker = MemoryBroker()
    async with receiver() as hook:
        hook.answers = [302, 500, 500, 404]
        async with replica(config_of(webhook_url=hook.url), broker) as runtime:
            tell(broker, RAISED)
            (shown,) = await told(runtime, 1)
            assert await runtime.bus.parked.count() == 0

    assert (shown.attempts, shown.code) == (4, "http_404")
    assert len(hook.got) == 4
    assert "secret-path" not in repr(broker.records)


async def test_a_channel_that_is_refused_holds_up_no_other_and_repeats_nothing() -> None:
    """Each has its own tries: the mail that failed twice did not bring the webhook its notice again."""
    broker = MemoryBroker()
    async with receiver() as hook, mail_server() as (mailbox, port):
        mailbox.refusals = ["451 Later", "451 Later"]
        config = mail_config(port, webhook_url=hook.url, slack_url=f"http://{HOST}:{free_port()}/")
        async with replica(config, broker) as runtime:
            tell(broker, RAISED)
            shown = {each.channel: each for each in await told(runtime, 3)}

    assert len(hook.got) == 1
    assert len(mailbox.mails) == 1
    assert (shown["webhook"].attempts, shown["email"].attempts, shown["email"].code) == (1, 3, "")
    assert (shown["slack"].attempts, shown["slack"].code) == (4, "unreachable")


async def test_a_wrong_password_is_told_without_it(certificate: Path) -> None:
    broker = MemoryBroker()
    async with mail_server(certificate) as (_, port):
        config = mail_config(port, smtp_tls="starttls", smtp_user="drape", smtp_password="wrong-" + PASSWORD)
        async with replica(config, broker) as runtime:
            tell(broker, RAISED)
            (shown,) = await told(runtime, 1)

    assert shown.code == "smtp_login_refused"
    assert PASSWORD not in repr(broker.records)


async def test_a_server_whose_certificate_nobody_vouches_for_gets_no_mail(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    async with mail_server(certificate) as (mailbox, port), AsyncExitStack() as stack:
        config = mail_config(port, smtp_tls="starttls", smtp_user="drape", smtp_password=PASSWORD)
        channels = await open_channels(config, stack)
        with pytest.raises(Undelivered, match="tls"):
            await channels["email"].send(trial("01jd0000000000000000000tst", 1.0))

    assert (mailbox.mails, mailbox.users) == ([], [])


async def test_a_server_without_tls_gets_no_mail_where_tls_is_wanted() -> None:
    """Nothing is sent in the clear."""
    async with mail_server() as (mailbox, port), AsyncExitStack() as stack:
        for tls, codes in (("starttls", {"smtp_no_starttls"}), ("tls", {"tls", "unreachable", "broken_off"})):
            channels = await open_channels(mail_config(port, smtp_tls=tls), stack)
            with pytest.raises(Undelivered) as caught:
                await channels["email"].send(trial("01jd0000000000000000000tst", 1.0))
            assert caught.value.code in codes

    assert mailbox.mails == []


async def test_a_mail_server_that_is_away_or_silent() -> None:
    """Refused at once; and one that never speaks is left after the time-out."""
    async with AsyncExitStack() as stack:
        away = await open_channels(mail_config(free_port()), stack)
        with pytest.raises(Undelivered, match="unreachable"):
            await away["email"].send(trial("01jd0000000000000000000tst", 1.0))

        async def say_nothing(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            stack.callback(writer.close)

        server = await asyncio.start_server(say_nothing, HOST, 0)
        stack.callback(server.close)
        silent = await open_channels(mail_config(server.sockets[0].getsockname()[1], timeout_s=0.3), stack)
        with pytest.raises(Undelivered, match="timeout"):
            await silent["email"].send(trial("01jd0000000000000000000tst", 1.0))


# --- again, and by another replica --------------------------------------------------------------------------------


async def test_two_replicas_tell_each_channel_once() -> None:
    broker = MemoryBroker()
    async with receiver() as hook:
        config = config_of(webhook_url=hook.url)
        async with replica(config, broker) as one, replica(config, broker):
            tell(broker, RAISED)
            await told(one, 1)

    assert len(hook.got) == 1
    assert [recorded.type for recorded in broker.records] == ["AlertRaised", "AlertNotified"]


async def test_a_timer_that_is_heard_again_tells_nobody_twice() -> None:
    """What is recorded as told is not sent again, and a channel that is configured no more is left out."""
    broker = MemoryBroker()
    async with receiver() as hook, replica(config_of(webhook_url=hook.url), broker) as runtime:
        tell(broker, RAISED)
        await told(runtime, 1)
        for channel in ("webhook", "slack"):
            broker.fire("telemetry", "notify", f"{channel}-again", {"channel": channel, "seq": 1, "attempt": 1})
        tell(broker, msgspec.structs.replace(RAISED, alert="error_rate"))
        await told(runtime, 2)

    assert len(hook.got) == 2
    assert "slack" not in repr(broker.records)


# --- tests, and settings ------------------------------------------------------------------------------------------


async def test_a_test_says_what_came_of_each_channel() -> None:
    """One try each; only that of the channel that is named."""
    async with receiver() as hook, replica(config_of()) as runtime, AsyncExitStack() as stack:
        config = config_of(webhook_url=hook.url, slack_url=f"http://{HOST}:{free_port()}/")
        _, notifier = effects(runtime, await open_channels(config, stack), AlertConfig(), config)
        ask = alert_queries(runtime, notifier, channel_names(config))["test-notification"]

        both = msgspec.json.decode(await ask(b"{}", {}))["tried"]
        assert [(each["channel"], each["ok"], each["code"]) for each in both] == [
            ("webhook", True, ""),
            ("slack", False, "unreachable"),
        ]
        await ask(b'{"channel":"webhook"}', {})
        with pytest.raises(NotFound) as caught:
            await ask(b'{"channel":"pager"}', {})
        assert caught.value.code == "no_such_channel"
        with pytest.raises(Invalid):
            await ask(b"[]", {})

    assert [msgspec.json.decode(body)["type"] for _, body in hook.got] == ["alert_test", "alert_test"]


@pytest.mark.parametrize(
    ("knobs", "code"),
    [
        ({"webhook_url": "hooks.example.org/geheim"}, "bad_notify_url"),
        ({"webhook_url": "ftp://hooks.example.org/geheim"}, "bad_notify_url"),
        ({"slack_url": "https://[geheim"}, "bad_notify_url"),
        ({"webhook_url": "https://h.example.org/", "webhook_secret": "whsec_geheim!"}, "bad_webhook_secret"),
        ({"smtp_host": "mail", "email_to": "ann@example.org"}, "bad_email"),
        ({"smtp_host": "mail", "email_from": "d@example.org"}, "bad_email"),
        ({"smtp_host": "mail", "email_from": "d@example.org", "email_to": "geheim"}, "bad_email"),
        ({"smtp_host": "mail", "email_from": "d@example.org", "email_to": "a@e.org\r\nBcc: x@y.org"}, "bad_email"),
    ],
)
async def test_settings_that_can_not_be_meant_are_refused_without_being_shown(knobs: dict[str, Any], code: str) -> None:
    async with AsyncExitStack() as stack:
        with pytest.raises(Invalid) as caught:
            await open_channels(config_of(**knobs), stack)

    assert caught.value.code == code
    assert "geheim" not in caught.value.message


def test_a_secret_in_base64_signs_as_the_specification_says() -> None:
    """The example of standardwebhooks.com."""
    headers = signed(
        signing_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
    )

    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_notice_without_numbers_shows_none() -> None:
    notice = Notice(id="i", kind="raised", alert="a", severity="warning", message="m", at=1.0)

    assert msgspec.json.decode(slack_body(notice))["attachments"][0]["fields"] == []
