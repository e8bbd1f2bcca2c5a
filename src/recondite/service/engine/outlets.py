"""Verdicts sent on to addresses of the operator's, in the background: no verdict waits for it."""

import json
from collections.abc import Sequence
from functools import partial

from recondite.data.mqtt import MqttSender, mqtt_address
from recondite.data.outbox import Deliver, Outbox
from recondite.service.engine.posting import post
from recondite.service.engine.store import Event
from recondite.service.log import LOG
from recondite.service.metrics import Counters
from recondite.service.settings import Settings

_TRIES = 6


class Outlets:
    """The verdict webhook and MQTT, where there are any. What they drop is counted, and stays in the store.

    Args:
        settings: of the service.
        counters: of messages.
    """

    def __init__(self, settings: Settings, counters: Counters) -> None:
        self._counters, self._sender = counters, None
        self._outboxes: list[tuple[float, Outbox[Event]]] = []
        if settings.verdict_webhook is not None:
            box = self._outbox("webhook", partial(_post, settings.verdict_webhook), _TRIES)
            self._outboxes.append((settings.verdict_webhook_p, box))
        if settings.mqtt is not None:
            self._sender = MqttSender(mqtt_address(settings.mqtt))
            self._outboxes.append((1.0, self._outbox("mqtt", partial(_publish, self._sender), None)))

    def offer(self, events: Sequence[Event]) -> None:
        """Take in events that were written down; returns at once."""
        for most, outbox in self._outboxes:
            outbox.put(event for event in events if event.p_value is None or event.p_value <= most)

    def close(self) -> None:
        """Send what waits, for a few seconds at most."""
        for _, outbox in self._outboxes:
            outbox.close()
        if self._sender is not None:
            self._sender.close()

    def _outbox(self, name: str, deliver: Deliver[Event], tries: int | None) -> Outbox[Event]:
        def failed(error: str) -> None:
            LOG.warning(f"{name} does not take verdicts", extra={"facts": {"error": error}})

        def counted(result: str, count: int) -> None:
            self._counters.messages.labels(name, result).inc(count)
            if result == "dropped":
                LOG.error(f"verdicts for {name} were dropped", extra={"facts": {"count": count}})

        return Outbox(f"outbox-{name}", deliver, failed, counted, tries)


def _post(url: str, events: Sequence[Event], dropped: int) -> None:
    message = {"event": "verdicts", "verdicts": [vars(one) for one in events], "dropped": dropped}
    post(url, message)


def _publish(sender: MqttSender, events: Sequence[Event], dropped: int) -> None:  # noqa: ARG001
    sender.send([(f"{one.screen}/{one.verdict}", json.dumps(vars(one)).encode()) for one in events])
