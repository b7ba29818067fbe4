#!/bin/bash
# A real Slurm cluster of N "nodes" on one machine, for tests of `srun` and `sbatch`. Needs Debian's slurm-wlm.
# Use it inside private namespaces, so that nothing outlives it and nothing outside is touched:
#   unshare -n -u -p -f --mount-proc --kill-child bash -c '. slurm_nodes.sh DIR 4; srun -N4 -n4 --mpi=pmix -K1 ./program'
# Tried with slurm-wlm 22.05.8 and Open MPI 4.1.4 (only --mpi=pmix works with that pair; pmi2 and none fail loudly).
D=${1:?a scratch directory}; N=${2:-4}; export SLURM_CONF=$D/slurm.conf OMPI_MCA_btl=self,tcp
hostname localhost; ip link set lo up
ip link add br0 type bridge 2>/dev/null; ip addr add 10.9.0.1/24 dev br0 2>/dev/null; ip link set br0 up   # with loopback alone srun cannot resolve
rm -rf "$D"; mkdir -p "$D/state" "$D/log"
for i in $(seq "$N"); do mkdir -p "$D/spool.n$i/tmp"; done          # TmpFS must be one per node: PMIx makes its directory there
for g in 0 1; do [ -e "$D/fakegpu$g" ] || mknod "$D/fakegpu$g" c 1 3; done   # two pretend GPUs a node: srun --gpus-per-task sets CUDA_VISIBLE_DEVICES
cat > "$SLURM_CONF" <<C
ClusterName=t
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmctldPort=6817
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
MpiDefault=pmix
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
ReturnToService=2
SchedulerParameters=sched_interval=1,batch_sched_delay=0
SlurmdParameters=config_overrides
StateSaveLocation=$D/state
SlurmdSpoolDir=$D/spool.%n
TmpFS=$D/spool.%n/tmp
SlurmctldPidFile=$D/ctld.pid
SlurmdPidFile=$D/slurmd.%n.pid
SlurmctldLogFile=$D/log/ctld.log
SlurmdLogFile=$D/log/slurmd.%n.log
KillWait=5
SlurmdTimeout=10
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n[1-$N] NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=[17001-$((17000+N))] CPUs=2 Boards=1 SocketsPerBoard=1 CoresPerSocket=2 ThreadsPerCore=1 RealMemory=1000 Gres=gpu:2 State=UNKNOWN
PartitionName=lo Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=4
PartitionName=hi Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
C
echo "NodeName=n[1-$N] Name=gpu File=$D/fakegpu[0-1]" > "$D/gres.conf"
slurmctld -D -f "$SLURM_CONF" > "$D/log/ctld.out" 2>&1 &
sleep 1
for i in $(seq "$N"); do slurmd -D -f "$SLURM_CONF" -N "n$i" > "$D/log/slurmd.n$i.out" 2>&1 & done
for _ in $(seq 30); do [ "$(sinfo -h -o %t 2>/dev/null | sort -u)" = idle ] && break; sleep 0.3; done
sinfo -N
