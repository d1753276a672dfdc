#!/bin/sh
# With a Docker engine: compose's servers come up with secrets of their own, and the image's runner
# replays candles against them, twice; needs the image `fastpersist-runner`. It is a project of its
# own, whose volumes go at the end.
set -eu
cd "$(dirname "$0")/.."
for name in MONGO_PASSWORD REDIS_PASSWORD MONGO_KEY; do
  secret=$(openssl rand -hex 24)
  export "$name=$secret"
done
folder=$(mktemp -d)
cp examples/ema_cross.py "$folder/"
python3 tools/wave_candles.py "$folder/BTCUSDT-1m.csv"
chmod -R a+rX "$folder"
STRATEGY_FOLDER=$folder MODE=backtest RESTART=no
export STRATEGY_FOLDER MODE RESTART
compose="docker compose --project-name fastpersist-try --file docker/compose.yaml --profile run"
trap '$compose down --volumes --timeout 5; rm -rf "$folder"' EXIT
$compose up --detach --wait mongo redis
$compose run --rm --no-TTY runner run --candles BTCUSDT-1m.csv
$compose run --rm --no-TTY runner run --candles BTCUSDT-1m.csv | tee "$folder/again"
grep -q 'is finished already' "$folder/again"
