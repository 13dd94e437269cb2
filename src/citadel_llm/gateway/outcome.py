"""What is noted of a request when it is over: in its limits, the accounts, the metrics and the log."""

from typing import TYPE_CHECKING

from citadel_llm.gateway.access_log import AccessLine, milliseconds
from citadel_llm.gateway.accounting import Ended
from citadel_llm.gateway.errors import CLIENT_GONE_STATUS

if TYPE_CHECKING:
    from citadel_llm.gateway.exchange import Exchange


def note(exchange: "Exchange", status: int, now: float) -> None:
    """Note a request everywhere; once for each.

    Args:
        exchange: The request.
        status: HTTP's; 499 for a client that hung up.
        now: When it ended, in the traffic's time.
    """
    traffic, answer, key, fields = exchange.traffic, exchange.answer, exchange.key, exchange.fields
    model, route, usage = exchange.model, exchange.path.path, answer.usage
    duration = now - exchange.began
    first_byte = None if answer.first_byte_at is None else answer.first_byte_at - exchange.began
    streamed = fields is not None and fields.stream
    tokens_in, tokens_out, estimated = usage.tokens_in, usage.tokens_out, False
    if not usage.found and fields is not None and exchange.path.usage is not None:
        cut_off = answer.relayed or (status == CLIENT_GONE_STATUS and exchange.attempts > 0)
        if cut_off:
            # It ended before the engine could say: what the pieces let us guess.
            tokens_in, tokens_out, estimated = fields.prompt_estimate, usage.pieces, True
    tokens = tokens_in + tokens_out
    if exchange.grant is not None:
        exchange.grant.settle(tokens)
    if exchange.entry is not None:
        ended = Ended(
            status,
            tokens_in,
            usage.tokens_cached,
            tokens_out,
            first_byte,
            duration,
            estimated,
            exchange.engine_id,
            model,
        )
        traffic.ledger.end(exchange.entry, ended)
    if exchange.span is not None and traffic.tracer is not None:
        traffic.tracer.end(exchange.span, exchange, status, tokens_in, tokens_out)
    tallies = traffic.metrics.tallies
    tallies.count(model, route, status, first_byte=first_byte, duration=duration)
    if tokens:
        tallies.count_tokens(model, tokens_in, usage.tokens_cached, tokens_out)
        if streamed and first_byte is not None and tokens_out > 1:
            tallies.count_pace(model, (duration - first_byte) / (tokens_out - 1))
    if key is not None and key.team:
        tallies.count_team(key.team, tokens)
    line = AccessLine(
        exchange.request_id,
        "" if key is None else key.id,
        "POST",
        route,
        status,
        exchange.error,
        None if first_byte is None else milliseconds(first_byte),
        milliseconds(duration),
        answer.sent,
        exchange.head.address,
        model,
        exchange.engine_id,
        streamed,
        exchange.attempts,
        milliseconds(exchange.queue_seconds) if exchange.queue_seconds else 0.0,
        tokens_in,
        tokens_out,
    )
    traffic.access_log.write(line)
