//! `cowlfs --complete`, and what other tools see before and after.

use std::path::PathBuf;
use std::process::Command;

use cowl_tests::as_root;
use cowl_tests::mount::{World, jail, sys};

use super::{ours, pattern, poke, records};

/// Runs `cowlfs --complete` on the layers of `w`.
fn complete(w: &World) -> std::process::Output {
    complete_over(w, w.lowers())
}

fn complete_over(w: &World, lowers: &[PathBuf]) -> std::process::Output {
    let lowers: Vec<_> = lowers.iter().map(|p| p.display().to_string()).collect();
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lowers.join(":"),
        w.u("").display(),
        w.dir.join("work").display()
    );
    Command::new(jail::program_inside()).args(["--complete", "-o", &options]).output().unwrap()
}

pub(super) fn overlayfs(w: &World, options: &str) -> sys::R<()> {
    let lowers: Vec<_> = w.lowers().iter().map(|p| p.display().to_string()).collect();
    let data = format!(
        "lowerdir={},upperdir={},workdir={}{options}",
        lowers.join(":"),
        w.u("").display(),
        w.dir.join("work").display()
    );
    sys::mount("overlay", &w.m(""), "overlay", 0, data.as_bytes())
}

as_root!(other_tools_are_kept_out_until_the_upper_is_complete, |w| {
    if !ours(w) {
        return;
    }
    w.options.push("copyup=block:0".into());
    let mut f = pattern(300_000);
    let g = pattern(70_000);
    w.put(1, "d/f", &f);
    w.put(1, "g", &g);
    w.mount();
    poke(w.m("d/f"), 200_000, b"new");
    f[200_000..200_003].copy_from_slice(b"new");
    sys::rename(w.m("g"), w.m("h"), 0).unwrap();
    w.unmount();
    assert_eq!(overlayfs(w, ""), Err(sys::Errno::EINVAL));
    let done = complete(w);
    assert!(done.status.success(), "{done:?}");
    assert!(String::from_utf8_lossy(&done.stdout).contains("2 files"), "{done:?}");
    assert_eq!(records(w), 0);
    assert!(std::fs::read(w.u("d/f")).unwrap() == f);
    assert!(std::fs::read(w.u("h")).unwrap() == g);
    overlayfs(w, "").unwrap();
    assert!(std::fs::read(w.m("d/f")).unwrap() == f);
    assert!(std::fs::read(w.m("h")).unwrap() == g);
    assert!(!w.m("g").exists());
    sys::umount(&w.m(""), 0).unwrap();
});

as_root!(kernel_overlayfs_understands_files_with_attributes_only, |w| {
    if !ours(w) {
        return;
    }
    w.options.push("metacopy=on".into());
    w.put(1, "d/f", pattern(70_000));
    w.put(1, "g", pattern(80_000));
    w.mount();
    sys::chmod(w.m("d/f"), 0o604).unwrap();
    sys::rename(w.m("g"), w.m("d/h"), 0).unwrap();
    w.unmount();
    overlayfs(w, ",metacopy=on,redirect_dir=on").unwrap();
    assert!(std::fs::read(w.m("d/f")).unwrap() == pattern(70_000));
    assert!(std::fs::read(w.m("d/h")).unwrap() == pattern(80_000));
    assert_eq!(sys::lstat(w.m("d/f")).unwrap().st_mode & 0o7777, 0o604);
    sys::umount(&w.m(""), 0).unwrap();
});

as_root!(a_whole_mount_reads_and_completes_what_blocks_left, |w| {
    if !ours(w) {
        return;
    }
    w.options.push("copyup=block:0".into());
    let mut want = pattern(300_000);
    w.put(1, "f", &want);
    w.mount();
    poke(w.m("f"), 200_000, b"new");
    w.unmount();
    w.options = vec!["copyup=whole".into()];
    w.start_again();
    poke(w.m("f"), 100, b"more");
    want[200_000..200_003].copy_from_slice(b"new");
    want[100..104].copy_from_slice(b"more");
    assert!(std::fs::read(w.m("f")).unwrap() == want);
    assert!(std::fs::read(w.u("f")).unwrap() == want, "all of it is in the upper");
    w.unmount();
    overlayfs(w, "").expect("nothing is partial any more");
    sys::umount(&w.m(""), 0).unwrap();
});

as_root!(completing_over_other_lowers_is_refused, |w| {
    if !ours(w) {
        return;
    }
    w.options.push("copyup=block:0".into());
    w.put(1, "f", pattern(300_000));
    w.mount();
    poke(w.m("f"), 7, b"new");
    w.unmount();
    let done = complete_over(w, &w.lowers()[..1]);
    assert!(!done.status.success());
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(said.contains("/f") && said.lines().count() == 1, "{said}");
});

as_root!(completing_finds_a_file_whose_last_names_are_the_lowers, |w| {
    if !ours(w) {
        return;
    }
    w.options.push("copyup=block:0".into());
    let mut want = pattern(50_000);
    w.put(1, "d/a", &want);
    w.put(1, "e/other", "x");
    sys::link(w.l(1, "d/a"), w.l(1, "e/b")).unwrap();
    w.mount();
    poke(w.m("d/a"), 100, b"new");
    want[100..103].copy_from_slice(b"new");
    std::fs::remove_file(w.m("d/a")).unwrap();
    w.unmount();
    let done = complete(w);
    assert!(done.status.success(), "{done:?}");
    w.start_again();
    assert!(std::fs::read(w.m("e/b")).unwrap() == want);
});

as_root!(completing_keeps_capabilities, |w| {
    const NAME: &str = "security.capability";
    if !ours(w) {
        return;
    }
    w.options.push("metacopy=on".into());
    let lower = w.put(1, "ping", pattern(50_000));
    // struct vfs_cap_data: version 2, effective; CAP_NET_RAW permitted.
    let words = [0x0200_0001_u32, 1 << 13, 0, 0, 0];
    let value: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    sys::setxattr(&lower, NAME, &value, 0).unwrap();
    w.mount();
    sys::chmod(w.m("ping"), 0o755).unwrap();
    w.unmount();
    let done = complete(w);
    assert!(done.status.success(), "{done:?}");
    assert!(std::fs::read(w.u("ping")).unwrap() == pattern(50_000));
    assert_eq!(sys::getxattr(w.u("ping"), NAME).unwrap(), value);
});
