#!/usr/bin/env bash
# Starts a SLURM cluster of one node with two tasks on loopback, for as long as its standard input stays open.
#
#   bash tests/launch/slurm_cluster.sh FOLDER
#
# Installs slurm-wlm and munge where they are missing (Debian, Ubuntu; as root). All state, keys and logs lie in FOLDER.
# Says "ready" when the node is idle; clients find the cluster by SLURM_CONF=FOLDER/slurm.conf. Exit status 77: it cannot
# be installed or started here, and the last line says why.
set -euo pipefail

FOLDER="$(realpath "${1:?"usage: bash tests/launch/slurm_cluster.sh FOLDER"}")"
export SLURM_CONF="$FOLDER/slurm.conf"

skip() {
  echo "$*"
  exit 77
}

install_slurm() {
  # Daemons stand in sbin, which is on root's path alone.
  PATH="$PATH:/usr/sbin"
  ! type slurmctld slurmd munged sbatch >/dev/null 2>&1 || return 0
  [ "$(id -u)" = 0 ] || skip "SLURM is not installed, and only root can: apt-get install slurm-wlm munge"
  command -v apt-get >/dev/null || skip "SLURM is not installed, and there is no apt-get"
  { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends slurm-wlm munge; } \
    >"$FOLDER/apt.log" 2>&1 </dev/null || skip "apt-get could not install slurm-wlm and munge: $(tail -n 1 "$FOLDER/apt.log")"
}

free_ports() {
  python3 -c 'import socket
sockets = [socket.socket() for _ in range(2)]
for s in sockets: s.bind(("127.0.0.1", 0))
print(*(s.getsockname()[1] for s in sockets))'
}

# proctrack, task and cgroup plugins that work in a container; cred_expire is how long a requeued job waits: 5 s
# is the shortest, 120 s what it is elsewhere.
write_config() {
  local controller_port node_port
  read -r controller_port node_port < <(free_ports)
  cat >"$SLURM_CONF" <<CONFIG
ClusterName=mmjax
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=$controller_port
SlurmdPort=$node_port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$FOLDER/munge.socket,cred_expire=5
StateSaveLocation=$FOLDER/state
SlurmdSpoolDir=$FOLDER/spool
SlurmctldPidFile=$FOLDER/slurmctld.pid
SlurmdPidFile=$FOLDER/slurmd.pid
SlurmctldLogFile=$FOLDER/slurmctld.log
SlurmdLogFile=$FOLDER/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,bf_interval=1
ReturnToService=2
SlurmdParameters=config_overrides
NodeName=localhost NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 CPUs=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=30
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=2
CONFIG
}

start_munge() {
  head -c 1024 /dev/urandom >"$FOLDER/munge.key"
  chmod 400 "$FOLDER/munge.key"
  munged --foreground --force --socket="$FOLDER/munge.socket" --key-file="$FOLDER/munge.key" \
    --pid-file="$FOLDER/munge.pid" --log-file="$FOLDER/munge.log" --seed-file="$FOLDER/munge.seed" &
  PIDS+=($!)
}

# In the foreground of this shell, so that it knows and stops them, whatever becomes of their pid files.
start_slurm() {
  mkdir -p "$FOLDER/state" "$FOLDER/spool"
  slurmctld -D >"$FOLDER/slurmctld.out" 2>&1 &
  PIDS+=($!)
  slurmd -D >"$FOLDER/slurmd.out" 2>&1 &
  PIDS+=($!)
}

# Jobs first: steps that lose their controller wait for it.
stop() {
  scancel --user="$(id -un)" 2>/dev/null || true
  for _ in $(seq 50); do
    [ -n "$(squeue --noheader 2>/dev/null)" ] || break
    sleep 0.2
  done
  kill "${PIDS[@]}" 2>/dev/null || true
  timeout 10 tail --pid="${PIDS[0]}" --pid="${PIDS[-1]}" -f /dev/null || kill -KILL "${PIDS[@]}" 2>/dev/null || true
  wait
}

wait_until_idle() {
  for _ in $(seq 100); do
    [ "$(sinfo --noheader --partition=main --format=%T 2>/dev/null)" != idle ] || return 0
    sleep 0.2
  done
  skip "SLURM did not start within 20 s: $(tail -qn 1 "$FOLDER"/slurm*.log 2>/dev/null | tr '\n' ' ')"
}

install_slurm
PIDS=()
trap stop EXIT
write_config
start_munge
start_slurm
wait_until_idle
echo ready
cat >/dev/null # until the caller closes it, also by dying
