"""Messages to a broker of MQTT, version 3.1.1, each acknowledged by it (QoS 1)."""

import os
import queue
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from recondite.data.addresses import without_secrets
from recondite.errors import InputError

if TYPE_CHECKING:
    from paho.mqtt.client import Client

USER, PASSWORD = "RECONDITE_MQTT_USER", "RECONDITE_MQTT_PASSWORD"
_PORTS = {"mqtt": 1883, "mqtts": 8883}
_TIMEOUT = 10.0


@dataclass(frozen=True)
class MqttAddress:
    """Where messages go.

    Args:
        host, port: of the broker.
        encrypted: whether TLS is spoken to it, and its certificate checked.
        topic: below which messages have their topics.
    """

    host: str
    port: int
    encrypted: bool
    topic: str


def mqtt_address(url: str) -> MqttAddress:
    """Return what an URL such as mqtt://HOST:1883/TOPIC, or mqtts:// for TLS, names.

    Raises:
        InputError: it is none; or it holds a user or password, which have their place in the environment; or the extra
            `mqtt` is missing.
    """
    expected = f"expected mqtt://HOST:1883/TOPIC, or mqtts://HOST:8883/TOPIC; got {without_secrets(url)!r}"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InputError(expected) from error
    if parts.username is not None or parts.password is not None:
        raise InputError(f"user and password of a broker are given as {USER} and {PASSWORD} in the environment")
    topic = parts.path.strip("/")
    if set(url) & set("+#?\0") or parts.scheme not in _PORTS or not host or not topic:
        raise InputError(expected)
    if find_spec("paho") is None:
        raise InputError("MQTT needs the extra 'mqtt': pip install 'recondite[mqtt]'")
    return MqttAddress(host, port or _PORTS[parts.scheme], parts.scheme == "mqtts", topic)


class MqttSender:
    """Sends messages over one connection, which is made when it is needed.

    User and password are `RECONDITE_MQTT_USER` and `RECONDITE_MQTT_PASSWORD` in the environment.

    Args:
        address: of the broker.
    """

    def __init__(self, address: MqttAddress) -> None:
        self._address = address
        self._client: Client | None = None

    def send(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Send messages of (topic below that of the address, content), and return when the broker has acknowledged all.

        Raises:
            OSError: it has not; some may have come to it, and will come again if they are sent again.
        """
        end = time.monotonic() + _TIMEOUT
        try:
            if self._client is None:
                self._client = self._connected()
            client, topic = self._client, self._address.topic
            sent = [client.publish(f"{topic}/{name}", content, qos=1) for name, content in messages]
            for one in sent:
                one.wait_for_publish(max(0.0, end - time.monotonic()))
                if not one.is_published():
                    raise OSError(f"the broker has not acknowledged a message within {_TIMEOUT:g} seconds")
        except (OSError, RuntimeError, ValueError) as error:
            self.close()  # with what waits in its client, which would be sent twice
            raise OSError(str(error)) from error

    def close(self) -> None:
        """Close the connection; the next message opens another."""
        client, self._client = self._client, None
        if client is not None:
            client.disconnect()
            client.loop_stop()

    def _connected(self) -> "Client":
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion
        from paho.mqtt.reasoncodes import ReasonCode

        client, answers = Client(CallbackAPIVersion.VERSION2), queue.SimpleQueue[ReasonCode]()
        client.connect_timeout = _TIMEOUT
        client.on_connect = lambda client, data, flags, reason, properties: answers.put(reason)  # noqa: ARG005
        if USER in os.environ:
            client.username_pw_set(os.environ[USER], os.environ.get(PASSWORD))
        if self._address.encrypted:
            client.tls_set_context(ssl.create_default_context())
        self._client = client  # so that it is closed if this fails
        client.connect(self._address.host, self._address.port)
        client.loop_start()
        try:
            reason = answers.get(timeout=_TIMEOUT)
        except queue.Empty:
            raise OSError(f"the broker has not answered within {_TIMEOUT:g} seconds") from None
        if reason.is_failure:
            raise OSError(f"the broker refuses the connection: {reason}")
        return client
