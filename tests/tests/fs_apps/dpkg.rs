//! dpkg: unpacks beside, links for a backup, renames over, and syncs in between.

use std::time::Duration;

use cowl_tests::mount::World;

use crate::{app, can_be_killed, kill_under, sh, shell};

/// Packages of 60 files in two versions, and an installation of the first versions in the lower.
const PACKAGES: &str = r#"
pack() {
    n=$1; v=$2; d="$T/build/$n$v"; mkdir -p "$d/DEBIAN" "$d/usr/share/$n/sub" "$d/usr/bin" "$d/etc" "$d/usr/lib/$n"
    printf 'Package: p%s\nVersion: %s\nArchitecture: all\nMaintainer: t <t@example.org>\nDescription: a test\n' "$n" "$v" > "$d/DEBIAN/control"
    echo "/etc/p$n.conf" > "$d/DEBIAN/conffiles"; echo "conf $v" > "$d/etc/p$n.conf"
    for i in $(seq 50); do echo "$n version $((i % 3 ? 1 : v))" > "$d/usr/share/$n/f$i"; done
    echo "only in $v" > "$d/usr/share/$n/sub/only$v"
    head -c 200000 /dev/zero | tr '\0' "$v" > "$d/usr/lib/$n/big"
    ln "$d/usr/lib/$n/big" "$d/usr/lib/$n/hard"; ln -s "big" "$d/usr/lib/$n/soft"
    printf '#!/bin/sh\necho %s\n' "$v" > "$d/usr/bin/p$n"; chmod 755 "$d/usr/bin/p$n"; chmod 4755 "$d/usr/lib/$n/hard"
    # What was a file becomes a directory, and the other way round.
    if [ "$v" = 1 ]; then echo x > "$d/usr/share/$n/turns"; else mkdir "$d/usr/share/$n/turns"; echo y > "$d/usr/share/$n/turns/in"; fi
    find "$d" -exec touch -h -d @1000000000 {} +
    (cd "$d"; find . -path ./DEBIAN -prune -o -type f -printf '%P\n' | sort | xargs md5sum > DEBIAN/md5sums)
    dpkg-deb --root-owner-group -Znone -b "$d" "$T/p$n-$v.deb" >/dev/null
}
for n in 1 2 3; do pack $n 1; pack $n 2; done
mkdir -p "$L/var/lib/dpkg/info" "$L/var/lib/dpkg/updates" "$L/var/log"; : > "$L/var/lib/dpkg/status"
"#;

/// `d DIRECTORY ARGUMENTS`: dpkg on another root.
const DPKG: &str = "d() { r=$1; shift; dpkg --root=\"$r\" --log=\"$r/var/log/dpkg.log\" --force-not-root,confdef,confold,script-chrootless,bad-path \"$@\" >/dev/null; }\n";

fn with(script: &str) -> String {
    format!("export PATH=\"/usr/sbin:/sbin:$PATH\"\n{DPKG}{script}")
}

fn seed(w: &World) {
    sh(w, &with(&format!("{PACKAGES}\nd \"$L\" -i \"$T\"/p?-1.deb; cp -a \"$L\" \"$T/plain\"")));
}

/// What is installed, by dpkg's own account, and every file of it.
const STATE: &str = "r=\"$M\"; dpkg --root=\"$r\" --audit; dpkg --root=\"$r\" --verify; \
    dpkg-query --admindir=\"$r/var/lib/dpkg\" -W -f '${Package} ${Version} ${Status}\\n'; \
    cd \"$r\"; find etc usr -printf '%P %y %m %n %s %l\\n' | grep -v ' d ' | sort; find etc usr -type f -print0 | sort -z | xargs -0 md5sum";

fn state(w: &World) -> String {
    let (got, want) = (sh(w, &with(STATE)), sh(w, &with(&STATE.replace("$M", "$T/plain"))));
    assert!(got == want, "on the mount:\n{got}\n--- on a plain directory:\n{want}");
    assert!(got.contains("install ok installed"), "{got}");
    got
}

app!(upgrades_and_removes_what_a_lower_holds, |w| {
    seed(w);
    w.mount();
    let before = state(w);
    for step in [
        "d \"$R\" -i \"$T\"/p1-2.deb \"$T\"/p2-2.deb",
        "echo mine >> \"$R/etc/p3.conf\"; d \"$R\" --unpack \"$T\"/p3-2.deb; d \"$R\" --configure -a",
        "d \"$R\" -r p2; d \"$R\" -P p2",
        "d \"$R\" -i \"$T\"/p2-1.deb; d \"$R\" -i \"$T\"/p1-1.deb",
    ] {
        for r in ["R=\"$M\"", "R=\"$T/plain\""] {
            sh(w, &with(&format!("{r}; {step}")));
        }
        assert_ne!(state(w), before, "nothing changed by: {step}");
        w.remount();
        state(w);
    }
});

app!(killed_while_it_upgrades, |w| {
    if !can_be_killed(w) {
        return;
    }
    seed(w);
    sh(w, &with("d \"$T/plain\" -i \"$T\"/p?-2.deb"));
    w.mount();
    for round in 0..4 {
        let script = "for i in 1 2 3 4 5 6; do d \"$M\" -i \"$T\"/p?-2.deb; d \"$M\" -i \"$T\"/p?-1.deb; done 2>/dev/null";
        let child = shell(w, &with(script)).stderr(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(90 + 210 * round));
        kill_under(w, vec![child]);
        // What a user does after a power cut.
        sh(
            w,
            &with(
                "d \"$M\" --configure -a 2>/dev/null || true; \
                 for v in 1 2; do d \"$M\" -i \"$T\"/p?-$v.deb 2>/dev/null; done",
            ),
        );
        // Leftovers of the broken unpacking are dpkg's own affair; it clears them when it unpacks the
        // same version again, which is why both are.
        state(w);
    }
    w.remount();
    state(w);
});
