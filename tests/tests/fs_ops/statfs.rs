//! statfs shows the filesystem of the upper layer.

use cowl_tests::both;
use cowl_tests::mount::sys;

both!(shows_the_upper, |w| {
    w.put(1, "f", "x");
    w.mount();
    let (m, u) = (sys::statfs(w.m("")).unwrap(), sys::statfs(w.u("")).unwrap());
    assert_eq!((m.f_blocks, m.f_files, m.f_bsize), (u.f_blocks, u.f_files, u.f_bsize));
    assert_eq!(m.f_namelen, 255);
    assert!(m.f_bfree <= m.f_blocks && m.f_bavail <= m.f_bfree);
    assert_eq!(sys::statfs(w.m("f")).unwrap().f_blocks, m.f_blocks);
    assert_eq!(sys::statfs(w.m("none")).map(|_| ()), Err(sys::Errno::ENOENT));
});
