"""Buy when the fast average of the closes crosses above the slow one, sell short below it.

Take profit and stop loss stand a multiple of the recent range away; half of the position is closed
on half of the way. Run it with::

    fastpersist run examples/ema_cross.py --candles BTCUSDT-1m.csv.gz
"""

from __future__ import annotations

from fastpersist.runner import Context, Signal, Strategy


class EmaCross(Strategy):
    name = "ema_cross"
    cost = 1_000.0
    fee_percent = 0.02
    fast, slow = 12, 48
    target, risk = 6.0, 3.0

    async def get_signal(self, ctx: Context) -> Signal | None:
        candles = ctx.candles(ctx.bar_interval, 4 * self.slow)
        if len(candles) < 4 * self.slow:
            return None
        closes = candles.close.tolist()
        fast, fast_before = average(closes, self.fast)
        slow, slow_before = average(closes, self.slow)
        crossed_up = fast_before <= slow_before and fast > slow
        crossed_down = fast_before >= slow_before and fast < slow
        if not (crossed_up or crossed_down):
            return None

        highs, lows = candles.high.tolist()[-self.slow :], candles.low.tolist()[-self.slow :]
        swing = (sum(highs) - sum(lows)) / self.slow
        if self.target * swing <= 3 * ctx.price * self.fee_percent / 100:
            return None  # too quiet to earn more than the fees
        if not await ctx.interval("one signal an hour").once(f"{ctx.symbol}_{ctx.when:%Y%m%d%H}"):
            return None

        crosses = ctx.state("crosses")
        count = 1 + await crosses.read(default=0)
        crosses.write(count)
        regime = await ctx.measure("regime").call(
            f"{ctx.symbol}_{ctx.when:%Y%m%d}",
            lambda: "rising" if closes[-1] > closes[0] else "falling",
        )
        ctx.memory("crosses").write(f"{ctx.when_ms}", {"count": count}, text=f"cross {regime}")

        way = 1 if crossed_up else -1
        return Signal(
            position="long" if crossed_up else "short",
            price_take_profit=ctx.price + way * self.target * swing,
            price_stop_loss=ctx.price - way * self.risk * swing,
            minute_estimated_time=48 * 60,
            partial_exit_level=50,
            note=f"cross {count} in a {regime} market",
        )


def average(closes: list[float], length: int) -> tuple[float, float]:
    """Return the exponential average at the last close and at the one before."""
    weight = 2 / (length + 1)
    value = before = closes[0]
    for close in closes:
        before = value
        value += weight * (close - value)
    return value, before
