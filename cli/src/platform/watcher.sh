# Ends what a supervisor started when the supervisor is gone, however it went (kill -9 included).
# Standard input: "+PID" when a process has started, "-PID" when it has ended; end of input means that the supervisor is gone.
# $1: a folder to remove at the end, or nothing.
trap '' INT TERM HUP
pids=" "
while read -r line; do
  pid=${line#?}
  case $line in
    +*) pids="$pids$pid " ;;
    -*) case $pids in *" $pid "*) pids="${pids%% "$pid" *} ${pids#* "$pid" }" ;; esac ;;
  esac
done
# SIGINT is a fast shutdown to PostgreSQL and an orderly one to everything else here.
for pid in $pids; do kill -INT "$pid" 2>/dev/null; done
waits=0
while [ "$waits" -lt 50 ]; do
  alive=
  for pid in $pids; do kill -0 "$pid" 2>/dev/null && alive=yes; done
  [ -z "$alive" ] && break
  sleep 0.1
  waits=$((waits + 1))
done
for pid in $pids; do kill -KILL -- "-$pid" 2>/dev/null; done
[ -n "$1" ] && rm -rf -- "$1"
exit 0
