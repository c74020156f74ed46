# Sourced by the launchers: the settings of JAX, XLA, libtpu and NCCL for this platform, from one table.
# What is set already wins: a flag with a value of your own stays, and so does a variable. Sourced twice, it adds nothing.
# PLATFORM=cpu|gpu|tpu names the platform; otherwise JAX_PLATFORMS does, otherwise the devices of this machine.
# shellcheck shell=bash

# platform  variable                       flag or value
# docs/launch.md has the reason and the source of each row; tests/launch/test_platform.py holds the two together.
platform_table() {
  cat <<'TABLE'
cpu JAX_PLATFORMS                  cpu
cpu XLA_FLAGS                      --xla_cpu_collective_call_terminate_timeout_seconds=600
gpu JAX_PLATFORMS                  cuda,cpu
gpu XLA_FLAGS                      --xla_gpu_enable_latency_hiding_scheduler=true
gpu XLA_PYTHON_CLIENT_MEM_FRACTION .90
gpu NCCL_DEBUG                     WARN
tpu JAX_PLATFORMS                  tpu,cpu
TABLE
}

find_platform() {
  case "${PLATFORM:-${JAX_PLATFORMS:-}}" in
    cpu*) echo cpu ;;
    gpu* | cuda*) echo gpu ;;
    tpu*) echo tpu ;;
    "") find_devices ;;
    *) echo "error: '${PLATFORM:-$JAX_PLATFORMS}' is no platform: set PLATFORM to cpu, gpu or tpu" >&2 && return 2 ;;
  esac
}

# The driver's device files: nothing needs to be installed to see them.
find_devices() {
  if [ -e /dev/nvidiactl ]; then
    echo gpu
  elif [ -e /dev/accel0 ] || [ -e /dev/vfio/0 ]; then
    echo tpu
  else
    echo cpu
  fi
}

# Adds a flag to a list of flags unless the list has it, with whatever value; sets any other variable that is not set.
apply_setting() {
  local variable="$1" value="$2" old="${!1:-}"
  if [[ "$value" != --* ]]; then
    export "$variable=${old:-$value}"
  elif [[ " $old " != *" ${value%%=*}"[=\ ]* ]]; then
    export "$variable=${old:+$old }$value"
  fi
}

apply_platform() {
  local platform row variable value
  platform="$(find_platform)" || return
  while read -r row variable value; do
    [ "$row" != "$platform" ] || apply_setting "$variable" "$value"
  done < <(platform_table)
}

apply_platform
