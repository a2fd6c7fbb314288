use super::*;
use std::process::Command;

type Data = Vec<(u64, Vec<u8>)>;

fn read_all(archive: &[u8]) -> Result<Vec<(Entry, Data)>, TarError> {
    let mut reader = TarReader::new(Stream(archive));
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let mut data = Data::new();
        let mut buffer = [0; 4096];
        while let Some((offset, count)) = reader.read_data(&mut buffer)? {
            data.push((offset, buffer[..count].to_vec()));
        }
        entries.push((entry, data));
    }
    Ok(entries)
}

fn sample() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(5);
    header.set_mode(0o4755);
    header.set_uid(7);
    header.set_cksum();
    builder.append_data(&mut header, "dir/file", &b"hello"[..]).unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_size(3);
    header.set_cksum();
    builder.append_data(&mut header, "n".repeat(300), &b"abc"[..]).unwrap();
    builder.into_inner().unwrap()
}

#[test]
fn plain_and_long_names() {
    let entries = read_all(&sample()).unwrap();
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[0].0.path, b"dir/file");
    assert_eq!((entries[0].0.mode, entries[0].0.uid, entries[0].0.size), (0o4755, 7, 5));
    assert_eq!(entries[0].1, [(0, b"hello".to_vec())]);
    assert_eq!(entries[1].0.path, "n".repeat(300).as_bytes());
}

/// Every cut of an archive is either refused or gives a prefix of its entries, and no cut inside
/// an entry passes.
#[test]
fn truncated_archives_are_noticed() {
    let archive = sample();
    let whole = read_all(&archive).unwrap();
    for cut in 0..archive.len() {
        match read_all(&archive[..cut]) {
            Ok(entries) => {
                assert!(cut % BLOCK == 0, "cut at {cut}");
                assert_eq!(entries[..], whole[..entries.len()]);
            }
            Err(TarError::Truncated | TarError::NotTar) => {}
            Err(other) => panic!("cut at {cut}: {other}"),
        }
    }
}

#[test]
fn garbage_is_refused_and_nothing_panics() {
    assert!(matches!(read_all(&[b'x'; 2048]), Err(TarError::NotTar)));
    assert!(matches!(read_all(b"short"), Err(TarError::NotTar)));
    let archive = sample();
    let mut seed = 1u64;
    for _ in 0..20_000 {
        let mut broken = archive.clone();
        for _ in 0..3 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let at = (seed >> 33) as usize % broken.len();
            broken[at] = (seed >> 20) as u8;
            // Keep the header acceptable, so that its fields are what is tested.
            let block = at / BLOCK * BLOCK;
            let sum: u32 = (0..BLOCK)
                .map(|i| if (148..156).contains(&i) { 32 } else { u32::from(broken[block + i]) })
                .sum();
            broken[block + 148..block + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        drop(read_all(&broken));
    }
}

/// GNU tar's four ways to store a file with holes all give the same pieces.
#[test]
fn files_with_holes() {
    use std::io::{Seek, SeekFrom, Write};
    let directory = tempfile::tempdir().unwrap();
    let mut file = std::fs::File::create(directory.path().join("holes")).unwrap();
    for index in 0..40u64 {
        file.seek(SeekFrom::Start(index * 1_048_576)).unwrap();
        file.write_all(&[index as u8 + 1; 4096]).unwrap();
    }
    file.set_len(50 * 1_048_576).unwrap();
    drop(file);
    for format in [
        vec!["--format=gnu"],
        vec!["--format=pax", "--sparse-version=0.0"],
        vec!["--format=pax", "--sparse-version=0.1"],
        vec!["--format=pax", "--sparse-version=1.0"],
    ] {
        let output = Command::new("tar")
            .args(["-S", "-c", "-f", "-"])
            .args(&format)
            .arg("-C")
            .arg(directory.path())
            .arg("holes")
            .output()
            .unwrap();
        assert!(output.status.success());
        assert!(output.stdout.len() < 1_048_576, "{format:?} did not store holes");
        let entries = read_all(&output.stdout).unwrap();
        let (entry, data) = &entries[0];
        assert_eq!(entry.path, b"holes", "{format:?}");
        assert_eq!(entry.size, 50 * 1_048_576, "{format:?}");
        assert!(entry.sparse.is_some());
        let mut bytes = 0;
        for (offset, piece) in data {
            bytes += piece.len();
            for (index, byte) in piece.iter().enumerate() {
                let at = offset + index as u64;
                assert_eq!(u64::from(*byte), at / 1_048_576 + 1, "{format:?} at {at}");
            }
        }
        assert_eq!(bytes, 40 * 4096, "{format:?}");
    }
}

#[test]
fn sparse_maps_that_lie_are_refused() {
    let piece = |offset, length| Segment { offset, length };
    assert!(sparse::check(&[piece(0, 5), piece(10, 5)], 20, 10).is_ok());
    assert!(sparse::check(&[piece(10, 5), piece(0, 5)], 20, 10).is_err());
    assert!(sparse::check(&[piece(0, 5), piece(4, 5)], 20, 10).is_err());
    assert!(sparse::check(&[piece(0, 5)], 4, 5).is_err());
    assert!(sparse::check(&[piece(0, 5)], 20, 6).is_err());
    assert!(sparse::check(&[piece(u64::MAX, 5)], u64::MAX, 5).is_err());
}
