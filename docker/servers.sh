#!/bin/sh
# Starts a server of compose.yaml, after a look at its secrets:
#   servers.sh mongo | redis | redis-node | keep-redis-cluster | check NAME SECRET
set -eu

# A password that everybody knows is refused, or with ALLOW_WEAK_PASSWORDS=1 warned of.
check() {
  name=$1 secret=$2 problem=
  case $(printf '%s' "$secret" | tr '[:upper:]' '[:lower:]') in
    *password*|*passwd*|*changeme*|*change-me*|*secret*|*example*|*fastpersist*|*admin*|*mongo*|*redis*|*12345*)
      problem="is one that others guess" ;;
  esac
  [ "${#secret}" -ge 16 ] || problem="has fewer than 16 characters"
  case $secret in *[!A-Za-z0-9]*) echo "$name: letters and digits only, it becomes part of a URL" >&2; exit 64 ;; esac
  [ -n "$problem" ] || return 0
  if [ "${ALLOW_WEAK_PASSWORDS:-}" = 1 ]; then
    echo "WARNING: $name $problem. Never let this run where others reach it." >&2
  else
    echo "$name $problem; this server does not start with it." >&2
    echo "Take one of: openssl rand -hex 24. On a machine of your own: ALLOW_WEAK_PASSWORDS=1" >&2
    exit 64
  fi
}

case $1 in
  check)
    check "$2" "$3"
    ;;
  mongo)
    # The first member makes the user; the others get it by replication and know the key alone.
    [ -z "${MONGO_INITDB_ROOT_PASSWORD:-}" ] || check MONGO_PASSWORD "$MONGO_INITDB_ROOT_PASSWORD"
    [ "${#MONGO_KEY}" -ge 32 ] || { echo "MONGO_KEY has fewer than 32 characters" >&2; exit 64; }
    # mongod wants the key in a file that it alone can read.
    (umask 077 && printf '%s' "$MONGO_KEY" > /data/configdb/key)
    unset MONGO_KEY
    chown mongodb:mongodb /data/configdb/key
    chmod 400 /data/configdb/key
    exec docker-entrypoint.sh mongod --replSet rs0 --bind_ip_all --keyFile /data/configdb/key
    ;;
  redis|redis-node)
    check REDIS_PASSWORD "$REDIS_PASSWORD"
    # It holds ids that MongoDB knows better: nothing is saved, the least used go first. The
    # password is read from a file, since a command line can be seen.
    configuration=/tmp/redis.conf
    cat > "$configuration" <<END
save ""
appendonly no
maxmemory ${REDIS_MEMORY:-256mb}
maxmemory-policy allkeys-lru
requirepass $REDIS_PASSWORD
masterauth $REDIS_PASSWORD
END
    if [ "$1" = redis-node ]; then
      # Names outlive the addresses of containers.
      cat >> "$configuration" <<END
cluster-enabled yes
cluster-config-file /data/nodes.conf
cluster-node-timeout 5000
cluster-announce-hostname $(hostname)
cluster-preferred-endpoint-type hostname
END
    fi
    chown redis:redis "$configuration" 2>/dev/null || true
    chmod 400 "$configuration"
    exec docker-entrypoint.sh redis-server "$configuration"
    ;;
  keep-redis-cluster)
    # Forms the cluster, and stays: containers that start again may have other addresses than those
    # by which their servers know each other.
    shift
    export REDISCLI_AUTH="$REDIS_PASSWORD"
    trap 'exit 0' TERM INT
    # An address that nobody has any more would be waited for.
    ask() {
      server=$1
      shift
      timeout 3 redis-cli -h "${server%:*}" -p "${server#*:}" "$@" 2> /dev/null || true
    }
    told=
    while :; do
      nodes="" state=ok
      for node in "$@"; do
        until [ "$(ask "$node" ping)" = PONG ]; do sleep 1; done
        # Servers meet by address; names are what they tell their clients.
        address=$(getent ahostsv4 "${node%:*}" | head -n 1 | cut -d ' ' -f 1)
        nodes="$nodes $address:${node#*:}"
        case $(ask "$node" cluster info) in
          *cluster_state:ok*) ;;
          *cluster_slots_assigned:0*) [ "$state" = lost ] || state=new ;;
          *) state=lost ;;
        esac
      done
      # shellcheck disable=SC2086  # a list of nodes
      case $state in
        new) redis-cli --cluster create $nodes --cluster-replicas 0 --cluster-yes || true ;;
        lost)
          for node in $nodes; do
            for other in $nodes; do
              [ "$node" = "$other" ] || ask "$node" cluster meet "${other%:*}" "${other#*:}" > /dev/null
            done
          done
          ;;
      esac
      [ "$state" = "$told" ] || echo "the cluster is $state"
      told=$state
      sleep 2 &
      wait $!
    done
    ;;
  *)
    echo "servers.sh: unknown: $1" >&2
    exit 64
    ;;
esac
