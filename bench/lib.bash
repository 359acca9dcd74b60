# shellcheck shell=bash
# For sourcing by the benchmarks here: nginx backends, one lb-control and lb-proxies, with a core for
# what is measured and the other one for everything else, and what a request costs them.
#
# ROUNDS, SECONDS_EACH, CONNECTIONS and BASE_PORT can be set in the environment; BIN is the directory
# with lb-control and lb-proxy.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

rounds=${ROUNDS:-7}
seconds=${SECONDS_EACH:-5}
connections=${CONNECTIONS:-64}
bin=${BIN:-${CARGO_TARGET_DIR:-target}/release}
proxy_core=0
other_core=1
base=${BASE_PORT:-18000}
nginx_ports=("$((base + 1))" "$((base + 2))" "$((base + 3))")
grpc=127.0.0.1:$((base + 4)) control_admin=127.0.0.1:$((base + 5))

if [[ $(nproc) -lt 2 ]]; then
    echo "needs two cores" >&2
    exit 1
fi
for program in lb-control lb-proxy; do
    if [[ ! -x $bin/$program ]]; then
        echo "$bin/$program is missing; build it first: cargo build --release --workspace" >&2
        exit 1
    fi
done

dir=$(mktemp -d)
pids=()
clean_up() {
    for pid in "${pids[@]}"; do kill -9 "$pid" 2>/dev/null || true; done
    rm -rf "$dir"
}
trap clean_up EXIT

# start NAME CORE COMMAND..: in the background; its process id is in $started.
start() {
    local name=$1 core=$2
    shift 2
    taskset -c "$core" "$@" >"$dir/$name.log" 2>&1 </dev/null &
    started=$!
    pids+=("$started")
    # The shell is not to tell of its end.
    disown
}

# wait_for NAME URL
wait_for() {
    for _ in {1..200}; do
        if curl --silent --fail --output /dev/null "$2"; then return; fi
        sleep 0.05
    done
    echo "$1 does not answer at $2:" >&2
    tail -20 "$dir/$1.log" >&2
    exit 1
}

start_nginx() {
    local path port
    {
        echo "daemon off; master_process off; pid $dir/nginx.pid; error_log stderr warn;"
        echo "events { worker_connections 4096; }"
        echo "http { access_log off; keepalive_requests 1000000000;"
        for path in client_body proxy fastcgi uwsgi scgi; do echo "${path}_temp_path $dir/$path;"; done
        for port in "${nginx_ports[@]}"; do
            echo "server { listen 127.0.0.1:$port; location / { return 200 'ok'; } }"
        done
        echo "}"
    } >"$dir/nginx.conf"
    start nginx "$other_core" nginx -p "$dir" -c "$dir/nginx.conf"
    wait_for nginx "http://127.0.0.1:${nginx_ports[0]}/"
}

# start_control: a listener `web`, whose address each proxy is given by --listen.
start_control() {
    local port
    {
        echo "listeners = [{ name = 'web', address = '127.0.0.1:1' }]"
        echo "routes = [{ name = 'app', backend_set = 'app' }]"
        echo "[[backend_sets]]"
        echo "name = 'app'"
        echo "balance = 'round_robin'"
        echo "health_check = { http = '/health', interval = '2s' }"
        echo "backends = ["
        for port in "${nginx_ports[@]}"; do echo "{ address = '127.0.0.1:$port' },"; done
        echo "]"
    } >"$dir/lb.toml"
    start lb-control "$other_core" "$bin/lb-control" --grpc "$grpc" --admin "$control_admin" \
        --data-dir "$dir/control" --config "$dir/lb.toml"
}

# start_proxy NAME WEB ADMIN FLAG..: its process id is in $started.
start_proxy() {
    local name=$1 web=$2 admin=$3
    shift 3
    start "$name" "$proxy_core" "$bin/lb-proxy" --id "$name" --control "http://$grpc" \
        --admin "$admin" --data-dir "$dir/$name" --listen "web=$web" --workers 1 "$@"
    wait_for "$name" "http://$admin/readyz"
    wait_for "$name" "http://$web/"
}

ticks_a_second=$(getconf CLK_TCK)

# Ticks that all of a process's threads have run, in user and in kernel mode. A tick is long, but a
# busy core makes hundreds of them in a round. (schedstat is finer where it works; not on every
# virtual machine does it.)
cpu_of() {
    # The name, in parentheses, may have spaces in it.
    sed 's/.*) //' "/proc/$1/stat" | awk '{ print $12 + $13 }'
}

# measure PID ADDRESS SECONDS: microseconds of CPU a request, and requests a second.
measure() {
    local before after report
    before=$(cpu_of "$1")
    report=$(taskset -c "$other_core" wrk -t 1 -c "$connections" -d "${3}s" "http://$2/")
    after=$(cpu_of "$1")
    if grep -Eq 'Socket errors|Non-2xx' <<<"$report"; then
        echo "requests failed:" >&2
        echo "$report" >&2
        return 1
    fi
    awk -v cpu="$(((after - before) * 1000000 / ticks_a_second))" -v seconds="$3" \
        '/ requests in / { printf "%.2f %.0f\n", cpu / $1, $1 / seconds }' <<<"$report"
}

# median FILE: of the numbers in it, one a line.
median() {
    sort -n "$1" | awk '{ v[NR] = $1 } END { print (v[int((NR + 1) / 2)] + v[int(NR / 2) + 1]) / 2 }'
}
