# Ends what a supervisor started when the supervisor is gone, however it went (kill -9 included).
# Standard input: "+PID SIGNAL" when a process has started and what asks it to end; "-PID" when it has ended. End of input means that
# the supervisor is gone.
# $1: a folder to remove at the end, or nothing.
trap '' INT TERM HUP

# One that has ended and waits for its parent to look (state Z) is not alive.
is_alive() {
  kill -0 "$1" 2>/dev/null || return 1
  [ -r "/proc/$1/stat" ] || return 0
  read -r _ _ state _ 2>/dev/null <"/proc/$1/stat" && [ "$state" != Z ]
}

pids=" "
while read -r line; do
  case $line in
    +*)
      line=${line#+}
      pids="$pids${line%% *} "
      [ "${line#* }" = INT ] && interrupted="$interrupted ${line%% *} "
      ;;
    -*)
      pid=${line#-}
      case $pids in *" $pid "*) pids="${pids%% "$pid" *} ${pids#* "$pid" }" ;; esac
      ;;
  esac
done
for pid in $pids; do
  case $interrupted in
    *" $pid "*) kill -INT "$pid" ;;
    *) kill -TERM "$pid" ;;
  esac 2>/dev/null
done
waits=0
while [ "$waits" -lt 50 ]; do
  alive=
  for pid in $pids; do is_alive "$pid" && alive=yes; done
  [ -z "$alive" ] && break
  sleep 0.1
  waits=$((waits + 1))
done
for pid in $pids; do kill -KILL -- "-$pid" 2>/dev/null; done
[ -n "$1" ] && rm -rf -- "$1"
exit 0
