#!/bin/sh
# boot.sh DIR NAME ADDRESS HIDE: the first process of a host, run in fresh
# mount, pid, uts and net namespaces. It builds the file tree, turns into it,
# configures and starts sshd and Postfix, and then only reaps. It speaks on
# descriptor 3: its pid as the machine sees it, then "up".
#
# All of it stands in a function, since the shell must have read the file whole
# before the tree that holds it goes away.

tree() {
	# Mounts made here end with the namespace; none is ever seen outside.
	if ! mount -t overlay overlay -o "lowerdir=/,upperdir=$dir/upper,workdir=$dir/work" "$dir/root"; then
		# The disk below cannot carry an upper layer, as with an overlay of
		# overlays in a container: keep the changes in memory.
		mount -t tmpfs tmpfs "$dir/work"
		mkdir "$dir/work/upper" "$dir/work/work"
		mount -t overlay overlay -o "lowerdir=/,upperdir=$dir/work/upper,workdir=$dir/work/work" "$dir/root"
	fi
	cd "$dir/root"
	mkdir -p proc run tmp dev home root var/tmp var/spool/postfix .machine

	# An overlay cannot rename directories of its lower layer, and real mail
	# servers can: the spool is a directory of the disk.
	mount --bind "$dir/spool" var/spool/postfix
	for spool in "$dir"/instances/*/spool; do
		[ -d "$spool" ] || continue
		instance=$(basename "$(dirname "$spool")")
		mkdir -p "var/spool/$instance"
		mount --bind "$spool" "var/spool/$instance"
	done
	# Nobody's keys, caches or other hosts are to be seen from in here.
	mount --bind "$dir/home-root" root
	mount --bind "$dir/home" home
	mount -t tmpfs -o mode=1777 tmpfs var/tmp
	mount -t tmpfs -o mode=1777 tmpfs tmp
	mount -t tmpfs -o mode=0755 tmpfs run
	for hidden in "$hide" /work; do
		if [ -d "./$hidden" ]; then mount -t tmpfs -o mode=0755 tmpfs "./$hidden"; fi
	done

	mount -t tmpfs -o mode=0755 tmpfs dev
	for node in null zero full random urandom tty; do
		: >"dev/$node"
		mount --bind "/dev/$node" "dev/$node"
	done
	mkdir dev/pts dev/shm
	mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts dev/pts
	mount -t tmpfs -o mode=1777 tmpfs dev/shm
	ln -s pts/ptmx dev/ptmx
	ln -s /proc/self/fd dev/fd
	ln -s fd/0 dev/stdin
	ln -s fd/1 dev/stdout
	ln -s fd/2 dev/stderr
	mount -t proc proc proc

	# pivot_root rather than chroot: mountinfo shows only the host's mounts.
	pivot_root . .machine
	cd /
	umount -l /.machine
	rmdir /.machine
}

names() {
	hostname "$name"
	echo "$name" >/etc/hostname
	echo "$name.lab.test" >/etc/mailname
	printf '127.0.0.1 localhost\n%s %s.lab.test %s\n' "$address" "$name" "$name" >/etc/hosts
	# A resolver that refuses at once: no route leads to a real one.
	echo 'nameserver 127.0.0.1' >/etc/resolv.conf
}

accounts() {
	usermod --password '*' root 2>/dev/null # a locked root may not log in by key either
	if ! id admin >/dev/null 2>&1; then
		echo 'admin:x:2000:2000:lab admin:/home/admin:/bin/bash' >>/etc/passwd
		echo 'admin:x:2000:' >>/etc/group
		echo 'admin:*:19000:0:99999:7:::' >>/etc/shadow
	fi
	mkdir -p /etc/sudoers.d
	echo 'admin ALL=(ALL:ALL) NOPASSWD: ALL' >/etc/sudoers.d/admin
	chmod 0440 /etc/sudoers.d/admin
	mkdir -p /root/.ssh /home/admin/.ssh
	cp /etc/lab/authorized_keys /root/.ssh/
	cp /etc/lab/authorized_keys /home/admin/.ssh/
	chmod 0700 /root /root/.ssh /home/admin /home/admin/.ssh
	chown -R admin: /home/admin
}

ssh_server() {
	cat >/etc/ssh/sshd_config <<-CONFIG
		HostKey /etc/lab/host_key
		PermitRootLogin prohibit-password
		PasswordAuthentication no
		UsePAM no
		UseDNS no
		PrintMotd no
		# The defaults drop parallel connections.
		MaxStartups 100:30:200
		Subsystem sftp internal-sftp
	CONFIG
	mkdir -p /run/sshd
	/usr/sbin/sshd -D -E /var/log/sshd.log 3>&- &
}

mail_server() {
	# The package's master.cf, not the machine's own.
	cp /usr/share/postfix/master.cf.dist /etc/postfix/master.cf
	if ! [ -e /etc/lab/main.cf ]; then # a restart keeps what was set since
		cat >/etc/lab/main.cf <<-CONFIG
			compatibility_level = 3.6
			myhostname = $name.lab.test
			mydestination = localhost
			inet_interfaces = loopback-only
			inet_protocols = all
			mynetworks = 127.0.0.0/8
			maillog_file = /var/log/mail.log
			biff = no
			recipient_delimiter = +
			alias_maps =
			alias_database =

			# All mail, for accounts of this host too, goes where the sink
			# of the lab listens, or does not.
			default_transport = smtp:[127.0.0.1]:9
			smtp_tls_security_level = none
			smtp_dns_support_level = disabled
			# A server that never speaks keeps mail in active for as long as a test takes.
			smtp_helo_timeout = 3600s

			# Logins and client addresses are told by XCLIENT, which stands for SASL
			# here. Postfix looks at the address that the last XCLIENT told, so that
			# a session which shall tell another one needs every address in this list.
			# Whoever gets in may relay; smtpd does not start with a plain "permit".
			smtpd_authorized_xclient_hosts = 0.0.0.0/0, [::]/0
			smtpd_relay_restrictions = check_client_access static:OK, reject
			smtpd_tls_security_level = none
			smtpd_client_connection_count_limit = 0
			smtpd_client_event_limit_exceptions = static:all
			smtpd_error_sleep_time = 0
			in_flow_delay = 0
		CONFIG
		cp /etc/lab/main.cf /etc/postfix/main.cf
		# Every Postfix program waits until main.cf is two seconds old.
		touch -d '1 minute ago' /etc/postfix/main.cf
	fi
	mkdir -p /run/lock
	/usr/lib/postfix/configure-instance.sh - 3>&-
	postfix start 3>&-
}

main() {
	set -eu
	dir=$1 name=$2 address=$3 hide=$4
	# /proc is still the machine's here, so this is the pid the machine knows.
	read -r pid _ </proc/self/stat
	echo "$pid" >&3
	ip link set lo up
	tree
	names
	accounts
	ssh_server
	mail_server
	echo up >&3
	exec 3>&-

	# Waiting reaps the orphans too. The sleep is there to be waited for.
	sleep infinity &
	while kill -0 $! 2>/dev/null; do wait; done
}

main "$@"
