"""Trades often and uses everything a context offers, so that a kill finds it in the middle."""

from __future__ import annotations

from fastpersist.runner import Context, Signal, Strategy


class Busy(Strategy):
    name = "busy"
    cost = 500.0
    schedule_minutes = 9.0

    async def get_signal(self, ctx: Context) -> Signal | None:
        closes = ctx.candles("1m", 5).close
        if len(closes) < 5:
            return None
        asked = ctx.state("asked")
        count = await asked.read(default=0) + 1
        if await ctx.interval("ticks").once(f"{ctx.symbol} {ctx.when:%Y%m%d%H%M}"):
            asked.write(count)
        if count % 4:
            return None
        mood = await ctx.measure("mood").call(f"{ctx.when:%Y%m%d%H}", lambda: count)
        ctx.memory("signals").write(f"{count}", {"mood": mood}, text=f"signal {count % 10}")
        known = await ctx.memory("signals").search(f"signal {count % 10}")
        ctx.log("asked", count, len(known))
        if count % 40 == 0:
            ctx.notify(f"{count} questions")
        price = ctx.price
        way = 1 if closes[-1] >= closes[0] else -1
        limit = price * (1 - way * 0.0004) if count % 8 == 0 else None
        return Signal(
            position="long" if way > 0 else "short",
            price_open=limit,
            price_take_profit=price * (1 + way * 0.004),
            price_stop_loss=price * (1 - way * 0.003),
            minute_estimated_time=45,
            partial_exit_level=40,
            note=f"question {count}",
        )
