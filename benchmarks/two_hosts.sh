#!/usr/bin/env bash
# Two network namespaces as two hosts: the same run on one process and on two hosts must end with the same losses.
# Needs root on Linux (ip netns). Usage: benchmarks/two_hosts.sh [processes a host]
set -euo pipefail
each=${1:-1}
work=$(mktemp -d)
clean() { for h in 0 1; do ip netns del "mmard$h" 2>/dev/null || true; done; rm -rf "$work"; }
trap clean EXIT
for h in 0 1; do ip netns add "mmard$h"; done
ip link add mmard0 netns mmard0 type veth peer name mmard1 netns mmard1
for h in 0 1; do
  ip -n "mmard$h" address add "10.9.8.$((h + 1))/24" dev "mmard$h"
  ip -n "mmard$h" link set "mmard$h" up
  ip -n "mmard$h" link set lo up
done
cat >"$work/plain.py" <<'METHOD'
# without BatchNorm and without random starts, hosts can change nothing but rounding
from torch import nn
from mmard.methods import pgd_at
from mmard.models.architectures import FAMILIES

FAMILIES["plain"] = ("no BatchNorm", lambda a: nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, a.classes)))


def build():
    return pgd_at()
METHOD
settings=(train --method "$work/plain.py:build" student=plain attack.steps=2 attack.start=none threat.eps=0.1 data.limit=400
  train.batch_size=40 train.epochs=2 engine.accelerator=cpu)
export OMP_NUM_THREADS=1
host() {
  NODE_RANK=$1 MASTER_ADDR=10.9.8.1 MASTER_PORT=29500 GLOO_SOCKET_IFNAME="mmard$1" \
    ip netns exec "mmard$1" mmard "${settings[@]}" engine.nodes=2 engine.devices="$each" out="$work/two"
}
mmard "${settings[@]}" out="$work/one" >"$work/one.log"
host 1 >"$work/1.log" 2>&1 &
host 0 >"$work/0.log" 2>&1 || { cat "$work"/?.log; exit 1; }
wait $! || { cat "$work/1.log"; exit 1; }
for run in one two; do
  echo "$run: $(python3 -c "import json,sys; print([round(json.loads(l)['loss'], 6) for l in open(sys.argv[1])])" "$work/$run/metrics.jsonl")"
done
