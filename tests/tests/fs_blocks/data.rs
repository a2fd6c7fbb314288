//! Data: only what is touched is copied, and all of it reads right.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::process::Command;

use cowl_tests::model::Rng;
use cowl_tests::mount::sys::{self, libc};
use cowl_tests::mount::{World, cat, jail};
use cowl_tests::{as_root, both};

use super::{BLOCK, ours, pattern, poke, records, run, space};

const BIG: usize = 8 << 20;

both!(a_small_write_copies_one_block, |w| {
    if !ours(w) {
        return;
    }
    w.options.push("copyup=block".into());
    let mut want = pattern(BIG);
    w.put(1, "f", &want);
    w.mount();
    poke(w.m("f"), 5_000_001, b"X");
    want[5_000_001] = b'X';
    assert!(std::fs::read(w.m("f")).unwrap() == want);
    assert!(space(w.u("f")) <= 16 * BLOCK as u64, "{}", space(w.u("f")));
    // Space is shown as if all were there: programs take a file without any for one big hole.
    assert!(space(w.m("f")) >= BIG as u64);
    w.remount();
    assert!(std::fs::read(w.m("f")).unwrap() == want);
});

both!(changes_of_attributes_copy_nothing, |w| {
    if !ours(w) {
        return;
    }
    for option in ["copyup=block", "metacopy=on"] {
        w.options = vec![option.into()];
        let name = option.replace('=', "-");
        let want = pattern(BIG);
        w.put(1, &name, &want);
        w.mount();
        sys::chmod(w.m(&name), 0o640).unwrap();
        sys::setxattr(w.m(&name), "user.k", b"v", 0).unwrap();
        sys::link(w.m(&name), w.m(format!("{name}-2"))).unwrap();
        sys::rename(w.m(&name), w.m(format!("{name}-3")), 0).unwrap();
        let moved = w.m(format!("{name}-3"));
        assert!(space(w.u(format!("{name}-3"))) < 3 * BLOCK as u64);
        assert!(std::fs::read(&moved).unwrap() == want);
        w.remount();
        for n in ["2", "3"] {
            let p = w.m(format!("{name}-{n}"));
            assert_eq!(sys::lstat(&p).unwrap().st_mode & 0o7777, 0o640);
            assert_eq!(sys::getxattr(&p, "user.k").unwrap(), b"v");
            assert!(std::fs::read(&p).unwrap() == want, "{option} {n}");
        }
        w.unmount();
    }
    w.mount();
});

both!(cut_off_data_of_the_lower_never_comes_back, |w| {
    if !ours(w) {
        return;
    }
    w.options.push("copyup=block:0".into());
    w.put(1, "f", pattern(BIG));
    w.mount();
    let f = OpenOptions::new().write(true).read(true).open(w.m("f")).unwrap();
    for (cut, long) in [(BIG - 10, BIG), (1_000_003, BIG + 77), (4096, 8192), (1, 3 << 20)] {
        f.set_len(cut as u64).unwrap();
        f.set_len(long as u64).unwrap();
        let mut want = pattern(BIG);
        want.truncate(cut);
        want.resize(long, 0);
        let mut got = vec![1; long];
        f.read_exact_at(&mut got, 0).unwrap();
        assert!(got == want, "cut at {cut}, then {long}");
    }
    drop(f);
    w.crash();
    let got = std::fs::read(w.m("f")).unwrap();
    assert!(got.len() == 3 << 20 && got[0] == pattern(1)[0] && got[1..].iter().all(|&b| b == 0));
});

as_root!(xattrs_of_the_format_stay_hidden, |w| {
    if !ours(w) {
        return;
    }
    w.options.push("copyup=block:0".into());
    w.put(1, "f", pattern(BLOCK * 3));
    w.mount();
    poke(w.m("f"), 1, b"y");
    assert!(sys::listxattr(w.m("f")).unwrap().is_empty());
    assert!(!sys::listxattr(w.u("f")).unwrap().is_empty());
});

/// One random change of a file, done to a plain file as well; what both answer must agree.
fn step(rng: &mut Rng, ours: &File, plain: &File, size: u64) {
    let at = rng.below(size as usize + BLOCK) as u64;
    let len = 1 + rng.below(6 * BLOCK) as u64;
    let byte = rng.below(255) as u8 + 1;
    match rng.below(10) {
        0..=3 => {
            let at = if rng.below(2) == 0 { at / BLOCK as u64 * BLOCK as u64 } else { at };
            for f in [ours, plain] {
                f.write_all_at(&vec![byte; len as usize], at).unwrap();
            }
        }
        4 => {
            for f in [ours, plain] {
                f.set_len(at).unwrap();
            }
        }
        5 => {
            let mode = [
                libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
                libc::FALLOC_FL_ZERO_RANGE,
                libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE,
                0,
                libc::FALLOC_FL_KEEP_SIZE,
            ][rng.below(5)];
            for f in [ours, plain] {
                let fd = f.try_clone().unwrap().into();
                sys::fallocate(&fd, mode, at as i64, len as i64).unwrap();
            }
        }
        6 => ours.sync_all().unwrap(),
        7 => {
            // From one place of the file to another that does not overlap.
            let to = at + len;
            let mut buf = vec![0; len as usize];
            let n = plain.read_at(&mut buf, at).unwrap();
            plain.write_all_at(&buf[..n], to).unwrap();
            let n = ours.read_at(&mut buf, at).unwrap();
            ours.write_all_at(&buf[..n], to).unwrap();
        }
        _ => {
            let (mut a, mut b) = (vec![0; len as usize], vec![0; len as usize]);
            let (n, m) = (ours.read_at(&mut a, at).unwrap(), plain.read_at(&mut b, at).unwrap());
            assert_eq!(n, m, "bytes read at {at}");
            assert!(a[..n] == b[..n], "data at {at}, {len} bytes");
        }
    }
}

/// Everything that is data according to `SEEK_DATA`/`SEEK_HOLE` equals the file; the rest is zeros.
fn holes_hold_nothing(f: &File, content: &[u8]) {
    let fd = f.try_clone().unwrap().into();
    let mut at = 0;
    while (at as usize) < content.len() {
        let data = match sys::lseek(&fd, at, libc::SEEK_DATA) {
            Ok(data) => data,
            Err(sys::Errno::ENXIO) => content.len() as i64,
            Err(e) => panic!("SEEK_DATA: {e}"),
        };
        assert!(content[at as usize..data as usize].iter().all(|&b| b == 0), "a hole with data");
        if data as usize == content.len() {
            break;
        }
        at = sys::lseek(&fd, data, libc::SEEK_HOLE).unwrap();
        assert!(at > data);
    }
}

fn random_changes(w: &mut World) {
    if !ours(w) {
        return;
    }
    let cases = std::env::var("COWL_BLOCKS_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(12);
    let first = std::env::var("COWL_BLOCKS_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    for seed in first..first + cases {
        let mut rng = Rng::new(seed);
        let size = 1 + rng.below(400_000);
        let name = format!("f{seed}");
        let mut content = pattern(size);
        // Holes of the lower's own.
        for _ in 0..rng.below(4) {
            let at = rng.below(size);
            let end = (at + 60_000).min(size);
            content[at..end].fill(0);
        }
        w.options = vec!["copyup=block:0".into()];
        if seed % 3 == 0 {
            w.options.push("writeback=0".into()); // holes are shown then
        }
        w.put(1, &name, &content);
        w.mount();
        std::fs::write(w.r(&name), &content).unwrap();
        if rng.below(2) == 0 {
            sys::chmod(w.m(&name), 0o600).unwrap();
        }
        for round in 0..6 {
            let open = |p| OpenOptions::new().read(true).write(true).open(p).unwrap();
            let (a, b) = (open(w.m(&name)), open(w.r(&name)));
            for _ in 0..rng.below(25) {
                let size = b.metadata().unwrap().len();
                step(&mut rng, &a, &b, size);
            }
            let want = std::fs::read(w.r(&name)).unwrap();
            let got = std::fs::read(w.m(&name)).unwrap();
            let differs = want.iter().zip(&got).position(|(a, b)| a != b);
            assert!(
                want == got,
                "seed {seed} round {round}: {} {} {differs:?}",
                want.len(),
                got.len()
            );
            holes_hold_nothing(&a, &want);
            a.sync_all().unwrap();
            drop(a);
            match rng.below(4) {
                0 => w.remount(),
                1 => w.crash(),
                _ => {}
            }
            assert!(std::fs::read(w.m(&name)).unwrap() == want, "seed {seed} round {round}, again");
        }
        w.unmount();
    }
    w.mount();
}

both!(random_changes_agree_with_a_plain_file, |w| {
    random_changes(w);
});

both!(copies_between_partial_files_are_right, |w| {
    if !ours(w) {
        return;
    }
    w.options.push("copyup=block:0".into());
    let (mut a, b) = (pattern(300_000), pattern(200_001));
    w.put(1, "a", &a);
    w.put(1, "b", b.iter().rev().copied().collect::<Vec<_>>());
    w.mount();
    poke(w.m("a"), 70_000, b"here");
    poke(w.m("b"), 90_000, b"there");
    a[70_000..70_004].copy_from_slice(b"here");
    let mut want: Vec<u8> = b.iter().rev().copied().collect();
    want[90_000..90_005].copy_from_slice(b"there");
    let open = |p| sys::open(p, libc::O_RDWR, 0).unwrap();
    let (from, to) = (open(w.m("a")), open(w.m("b")));
    let (mut done, len) = (0, 150_000);
    while done < len {
        let (at, left) = (50_001 + done as i64, len - done);
        let n = sys::copy_file_range(&from, at, &to, 3 + done as i64, left).unwrap();
        assert!(n > 0);
        done += n as usize;
    }
    want[3..3 + len].copy_from_slice(&a[50_001..50_001 + len]);
    drop((from, to));
    assert!(std::fs::read(w.m("b")).unwrap() == want);
    w.remount();
    assert!(std::fs::read(w.m("b")).unwrap() == want);
    assert!(std::fs::read(w.m("a")).unwrap() == a);
});

both!(an_open_handle_of_a_deleted_file_keeps_both_parts, |w| {
    if !ours(w) {
        return;
    }
    w.options.push("copyup=block:0".into());
    let mut want = pattern(100_000);
    w.put(1, "f", &want);
    w.mount();
    let f = OpenOptions::new().read(true).write(true).open(w.m("f")).unwrap();
    f.write_all_at(b"one", 5).unwrap();
    f.sync_all().unwrap();
    assert_eq!(records(w), 1);
    std::fs::remove_file(w.m("f")).unwrap();
    assert_eq!(records(w), 0, "nobody will need its record");
    f.write_all_at(b"two", 50_000).unwrap();
    f.sync_all().unwrap();
    want[5..8].copy_from_slice(b"one");
    want[50_000..50_003].copy_from_slice(b"two");
    let mut got = vec![0; want.len()];
    f.read_exact_at(&mut got, 0).unwrap();
    assert!(got == want);
    drop(f);
    assert!(cat(w.m("f")).starts_with("error"));
});

as_root!(the_largest_sparse_file_can_be_written_to, |w| {
    if !ours(w) {
        return;
    }
    w.in_memory();
    // By hand: the lowers of `w` are read from end to end before and after.
    let at = |name: &str| w.dir.join(format!("sparse/{name}"));
    for dir in ["lower", "upper", "work", "mnt"] {
        std::fs::create_dir_all(at(dir)).unwrap();
    }
    let size = 1_u64 << 62;
    File::create(at("lower/f")).and_then(|f| f.set_len(size)).unwrap();
    let options = format!(
        "copyup=block,lowerdir={},upperdir={},workdir={}",
        at("lower").display(),
        at("upper").display(),
        at("work").display()
    );
    run(Command::new(jail::program_inside()).args(["-o", &options]).arg(at("mnt")));
    let written = OpenOptions::new()
        .read(true)
        .write(true)
        .open(at("mnt/f"))
        .and_then(|f| f.write_all_at(b"new", size - 5000).map(|()| f))
        .and_then(|f| {
            let mut got = [1; 6];
            f.read_exact_at(&mut got, size - 5001).map(|()| got)
        });
    sys::umount(&at("mnt"), libc::MNT_DETACH).unwrap();
    assert_eq!(&written.unwrap(), b"\0new\0\0");
});
