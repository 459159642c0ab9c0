# The pages and the data in one folder, with the company's name in it; then httpd takes over this process.
set -eu
B=/bin/busybox
site=/tmp/site
$B mkdir -p "$site"
$B cp -r /www/. "$site"
$B cp /data/customers.tsv "$site"
printf '{"company": "%s", "users": %s}\n' "$COMPANY" "$USERS" > "$site/about.json"
exec $B httpd -f -p 8080 -h "$site"
