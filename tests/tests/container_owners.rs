//! Owners and modes that an image records, also where the host cannot store them; and those of the
//! root directory, which a union takes from its write layer.

// A test that cannot go on stops, and says where.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;

use cowl_tests::container::Machine;
use cowl_tests::container::archive::{self, Tar};
use cowl_tests::mount::sys;
use cowl_tests::{as_root_and_user, as_single_id};

as_root_and_user!(
    the_root_directory_is_the_images,
    the_topmost_layer_that_lists_the_root_counts,
    a_root_that_no_layer_lists_is_roots,
);

as_single_id!(
    the_root_directory_keeps_its_mode_and_time,
    a_root_that_no_layer_lists_is_roots,
    files_of_owners_that_are_not_there_are_roots_to_use,
    owners_and_users_that_are_not_there_are_kept,
);

/// Busybox in a directory of its own, so that no layer need list the root.
fn shell() -> Tar {
    let busybox = fs::read("/bin/busybox").expect("busybox-static is installed");
    Tar::default().directory("bin/").entry("bin/busybox", b'0', "", 0o755, &busybox)
}

/// What a script says in an image of these layers.
#[track_caller]
fn seen(machine: &Machine, layers: impl IntoIterator<Item = Tar>, script: &str) -> String {
    let layers: Vec<Vec<u8>> = layers.into_iter().map(Tar::finish).collect();
    machine.load(&machine.file("owners.tar", archive::image("owners", &layers)));
    let command = ["run", "--rm", "owners", "/bin/busybox", "sh", "-c", script];
    let said = machine.cowl(command).ok();
    machine.cowl(["rmi", "owners"]).ok();
    said
}

const ROOT: &str = "busybox stat -c '%a %u %g %Y' /";

/// A layer whose root directory has these attributes, and the time 2001-09-09 01:46:40.
fn with_root(tar: Tar, mode: u32, uid: u32, gid: u32) -> Tar {
    tar.pax("mtime", b"1000000000").owner(uid, gid).entry("./", b'5', "", mode, b"").owner(0, 0)
}

fn script(text: &str) -> String {
    format!("export PATH=/bin; {text}")
}

fn the_root_directory_is_the_images(machine: &Machine) {
    let said = seen(machine, [with_root(shell(), 0o1751, 7, 8)], &script(ROOT));
    assert_eq!(said, "1751 7 8 1000000000\n");
}

fn the_root_directory_keeps_its_mode_and_time(machine: &Machine) {
    let said = seen(machine, [with_root(shell(), 0o1751, 7, 8)], &script(ROOT));
    // This namespace has no ids 7 and 8; what cannot be named is root's.
    assert_eq!(said, "1751 0 0 1000000000\n");
}

fn the_topmost_layer_that_lists_the_root_counts(machine: &Machine) {
    let layers = [
        with_root(shell(), 0o700, 1, 1),
        with_root(Tar::default(), 0o2775, 5, 6),
        Tar::default().file("top", b""),
    ];
    assert_eq!(seen(machine, layers, &script(ROOT)), "2775 5 6 1000000000\n");
}

fn a_root_that_no_layer_lists_is_roots(machine: &Machine) {
    let said = seen(machine, [shell()], &script("busybox stat -c '%a %u %g' /"));
    assert_eq!(said, "755 0 0\n");
}

fn files_of_owners_that_are_not_there_are_roots_to_use(machine: &Machine) {
    let layer = Tar::default()
        .owner(0, 42)
        .entry("shadow", b'0', "", 0o640, b"old\n")
        .owner(100, 0)
        .entry("partial/", b'5', "", 0o700, b"")
        .entry("partial/file", b'0', "", 0o2755, b"x");
    let text = "busybox stat -c '%n %a %u %g' /shadow /partial /partial/file; \
                echo more >> /shadow; busybox cat /shadow; \
                echo new > /partial/other; busybox chmod 600 /partial/file; busybox mv /partial /moved; \
                busybox stat -c '%n %a %u %g' /moved/file /shadow; busybox ls /moved";
    let said = seen(machine, [shell(), layer], &script(text));
    assert_eq!(
        said,
        "/shadow 640 0 0\n/partial 700 0 0\n/partial/file 2755 0 0\nold\nmore\n\
         /moved/file 600 0 0\n/shadow 640 0 0\nfile\nother\n"
    );
}

fn owners_and_users_that_are_not_there_are_kept(machine: &Machine) {
    let script = "cd /tmp; echo x > f; mkdir d; ln -s f l; chmod 4755 f; \
                  chown 42:43 f && chown -h 7 l && chown 44 d; stat -c '%u %g' f d; cat f; \
                  chown 0:0 d; exec 3<f; chown 42:45 /proc/self/fd/3";
    let said = machine.cowl(["run", "--name", "kept", "busybox", "sh", "-c", script]).ok();
    // Shown as root's, since the kernel has no other id to show.
    assert_eq!(said, "0 0\n0 0\nx\n");
    let containers = machine.store().join("containers");
    let container = fs::read_dir(containers)
        .expect("list containers")
        .map(|entry| entry.expect("an entry").path())
        .find(|path| path.join("upper/tmp/f").exists())
        .expect("the container's write layer");
    let record = |name: &str| {
        sys::getxattr(container.join("upper/tmp").join(name), "user.containers.override_stat")
            .map(|record| String::from_utf8(record).expect("text"))
    };
    let file = record("f").expect("a record");
    assert!(file.starts_with("42:45:"), "{file}");
    let directory = record("d");
    assert!(directory.as_ref().is_err() || directory.as_ref().is_ok_and(|d| d.starts_with("0:0:")));
    machine.cowl(["rm", "kept"]).ok();

    let said = machine.cowl(["run", "--rm", "-u", "1000:1001", "busybox", "id"]).ok();
    assert!(said.starts_with("uid=1000 gid=1001"), "{said}");
}
