//! rsync and tar, there and back with everything they can carry: hard links, ACLs, xattrs, holes,
//! devices, times to the nanosecond.

use cowl_tests::mount::{Mode, World};
use cowl_tests::tree::{self, Depth};

use crate::{USER, app, sh, ush};

/// A tree with one of everything, in `$1`. Version 2 differs from version 1 in every way that a file
/// can differ.
const TREE: &str = r#"
make() {
    mkdir -p "$1"; cd "$1"; v=$2
    mkdir -p dir/sub sticky deep/a/b/c/d/e 'odd names' kind
    chmod 1777 sticky; chmod 2750 dir/sub; chmod 700 deep/a/b
    for i in $(seq 40); do echo "$i $((i % 7 == 0 ? v : 0))" > dir/f$i; done
    [ "$v" = 1 ] && echo one > dir/only1 || echo two > dir/only2
    for i in $(seq 5); do echo linked > links$i.a; ln links$i.a dir/links$i.b; ln links$i.a deep/a/links$i.c; done
    [ "$v" = 1 ] || { rm dir/links2.b; ln -f links3.a dir/links4.b; ln links5.a dir/sub/links5.d; }
    truncate -s 5M sparse; echo -n middle | dd of=sparse bs=1 seek=2000000 conv=notrunc status=none
    head -c 300000 /dev/zero | tr '\0' "$v" > big
    ln -s "target $v" symlink; ln -s /nowhere dir/dangling
    printf x > $'odd names/new\nline'; printf x > $'odd names/\xff\xfe'; printf x > 'odd names/  spaces * '
    printf x > "odd names/$(printf 'n%.0s' $(seq 250))"
    [ "$v" = 1 ] && echo file > kind/a || mkdir kind/a
    [ "$v" = 1 ] && mkdir -p kind/b/c || ln -s c kind/b
    [ "$v" = 1 ] && ln -s x kind/c || mkfifo kind/c
    mkfifo fifo
    chmod 4755 dir/f1; chmod 2711 dir/f2; chmod 600 dir/f4
    if [ "$(id -u)" = 0 ]; then
        chmod 0 dir/f3; chown -h 5:6 symlink dir/f5; chown 1:1 dir; chown 3:4 dir/f6; chmod 6711 dir/f6
        setfattr -n security.test -v "$v" dir/f8 2>/dev/null || true
        setfattr -n trusted.test -v "$v" dir/f8 2>/dev/null || true
        mknod null c 1 3 2>/dev/null && mknod block b 7 200 && chmod 640 block || true
    fi
    setfattr -n user.a -v "value $v" dir/f7; setfattr -n user.empty dir/f7; setfattr -n user.dir -v x dir
    setfattr -n user.big -v "$(head -c 2000 /dev/zero | tr '\0' v)" dir/f9
    setfacl -m u:77:rw,g:88:r dir/f10; setfacl -m u:77:rwx dir/sub; setfacl -d -m u:99:rx,g::r dir/sub
    [ "$v" = 1 ] || { setfattr -x user.empty dir/f7; setfacl -b dir/f10; setfacl -m u:66:r dir/f11; }
    find . -depth -exec touch -h -d "@100000000$v.12345678$v" {} +
}
"#;

/// Fails unless the mount shows the same tree as a plain directory.
fn same(w: &World, plain: &str, when: &str) {
    let want = tree::read(&w.r(plain), Depth::View);
    assert!(want.len() > 70, "only {} names are compared", want.len());
    let mut d = tree::diff(&want, &tree::read(&w.m("t"), Depth::View), Depth::View);
    assert!(d.is_empty(), "{when}:\n{d}");
    d = sh(w, &format!("rsync -aHAXnci --delete \"$T/{plain}/\" \"$M/t/\""));
    assert!(d.is_empty(), "{when}, rsync would change:\n{d}");
    // Holes stay holes wherever they were carried as such.
    let blocks: u64 = sh(w, "stat -c %b \"$M/t/sparse\"").parse().unwrap();
    assert!(blocks < 2048, "{when}: {blocks} blocks in a file that is nearly all hole");
}

fn seed(w: &World) {
    sh(w, &format!("{TREE}\n(make \"$L/t\" 1); (make \"$T/one\" 1); (make \"$T/two\" 2)"));
}

app!(rsync_there_and_back, |w| {
    seed(w);
    w.mount();
    same(w, "one", "the lower itself");
    for flags in ["-aHAXS", "-aHAXS --inplace --no-whole-file", "-aHAXS --delete-delay --fuzzy -c"]
    {
        let inplace = flags.contains("inplace");
        // rsync refuses sparse together with in place in some versions; holes stay without it.
        let flags = if inplace { flags.replace('S', "") } else { flags.to_owned() };
        sh(w, &format!("rsync {flags} --delete \"$T/two/\" \"$M/t/\""));
        same(w, "two", &format!("{flags}, to the mount"));
        w.remount();
        same(w, "two", &format!("{flags}, to the mount, after a remount"));
        sh(w, &format!("rsync {flags} --delete \"$T/one/\" \"$M/t/\""));
        same(w, "one", &format!("{flags}, back to what the lower holds"));
    }
    sh(w, "rsync -aHAXS \"$M/t/\" \"$T/back/\"");
    same(w, "back", "from the mount");
    w.remount();
    same(w, "back", "from the mount, after a remount");
});

app!(rsync_by_an_ordinary_user, |w| {
    for d in [w.l(1, "home"), w.r("home")] {
        std::fs::create_dir(&d).unwrap();
        cowl_tests::mount::sys::lchown(&d, USER, USER).unwrap();
    }
    ush(
        w,
        &format!(
            "{TREE}\n(make \"$L/home/t\" 1); (make \"$T/home/one\" 1); (make \"$T/home/two\" 2)"
        ),
    );
    w.mount();
    for (to, flags) in [("two", "-aHAXS"), ("one", "-aHAX"), ("two", "-aHAXc")] {
        ush(w, &format!("rsync {flags} --delete \"$T/home/{to}/\" \"$M/home/t/\""));
        for _ in 0..2 {
            let left = sh(w, &format!("rsync -aHAXnci --delete \"$T/home/{to}/\" \"$M/home/t/\""));
            assert!(left.is_empty(), "{flags}, rsync would change:\n{left}");
            w.remount();
        }
    }
});

app!(tar_there_and_back, |w| {
    seed(w);
    w.mount();
    let all = "--xattrs --xattrs-include='*' --acls --numeric-owner";
    // Out of the mount, into a plain directory.
    sh(
        w,
        &format!(
            "mkdir \"$T/back\"; tar -C \"$M/t\" {all} --sparse -cf - . | tar -C \"$T/back\" {all} -xpf -"
        ),
    );
    same(w, "back", "tar of the mount");
    // Over the files that are there, and over what is left of them. With --recursive-unlink tar does
    // not set the time of the topmost directory, with --overwrite it loses set-user-ID by its chown,
    // wherever it unpacks.
    for flags in ["", "--recursive-unlink", "--overwrite"] {
        let clean = if flags == "--overwrite" {
            "rm -rf kind; find . \\( -type l -o -perm /6000 -type f \\) -delete;"
        } else {
            "rm -rf kind;"
        };
        sh(
            w,
            &format!(
                "cd \"$M/t\"; {clean} rm -f dir/only1 dir/links* deep/a/links* links*; \
                 tar -C \"$T/two\" {all} --sparse -cf - . | tar -C \"$M/t\" {all} {flags} -xpf -; \
                 setfattr -x user.empty dir/f7 2>/dev/null || true; touch -d @1000000002.123456782 dir ."
            ),
        );
        same(w, "two", &format!("tar {flags} into the mount"));
        w.remount();
        same(w, "two", &format!("tar {flags} into the mount, after a remount"));
    }
    let device = sh(w, "test -c \"$M/t/null\" && echo yes || echo no");
    assert!(device == "yes" || w.mode == Mode::UserNs, "no device came over");
});
