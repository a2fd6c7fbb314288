//! git: thousands of small files, hard links, renames into place, packs read through mappings.

use cowl_tests::mount::World;

use crate::{app, give_to_user, sh, ush};

/// A repository with history, branches, loose objects and a pack, made in the lower layer.
const REPOSITORY: &str = r#"
git config --global user.name t; git config --global user.email t@example.org
git config --global init.defaultBranch main; git config --global safe.directory '*'
git config --global gc.auto 0; git config --global advice.detachedHead false
mkdir "$L/repo"; cd "$L/repo"; git init -q
for d in 1 2 3 4 5 6; do
    mkdir -p "src/$d/deep/er"
    for f in $(seq 30); do seq "$d$f" "$((d * 100 + f * 7))" > "src/$d/deep/er/f$f"; done
    ln -s "../$d/deep" "src/$d/link"; echo '#!/bin/sh' > "src/$d/run"; chmod +x "src/$d/run"
    git add .; git commit -qm "part $d"
done
git tag -a -m first v1
git repack -qad
git checkout -q -b side HEAD~3
for f in $(seq 20); do echo "side $f" >> "src/1/deep/er/f$f"; done
git commit -qam side; git checkout -q main
for f in $(seq 10 30); do echo "main $f" >> "src/2/deep/er/f$f"; done
git commit -qam 'more on main'
"#;

/// What does not depend on how the repository is stored.
const STATE: &str = "cd \"$M/repo\"; git fsck --full --strict --no-progress --no-dangling; git status --porcelain --branch; \
    git for-each-ref; git stash list | cat; git ls-files -s | sha256sum; git diff HEAD | sha256sum; git rev-list --all --objects | sort | sha256sum";

/// Everything that rewrites a repository.
const WORK: &str = r#"
cd "$M/repo"
test -z "$(git status --porcelain)"
git merge -q -m merged side
echo change >> src/3/deep/er/f3; rm src/4/deep/er/f4; mkdir new; echo new > new/file; git add -A
git stash -q; git stash pop -q; git commit -qam 'worked'
git mv src/5 moved; git commit -qm 'a directory moved'
git rebase -q --onto main~1 main~1 main
git checkout -q side; git checkout -q main
git gc -q --prune=now
git repack -qadf --depth=20 --window=10 --write-bitmap-index
git worktree add -q ../tree side; echo w >> ../tree/src/1/run; git -C ../tree commit -qam 'in a worktree'
git clone -q --local . ../local; git clone -q --no-local . ../copied
git -C ../local fsck --strict --no-progress; git -C ../copied fsck --strict --no-progress
git -C ../copied checkout -q -b extra; git -C ../copied commit -q --allow-empty -m extra
git fetch -q ../copied extra:extra
git pack-refs --all; git reflog expire --expire=now --all; git prune --expire=now
"#;

fn worked(w: &mut World, run: fn(&World, &str) -> String) {
    run(w, "git --version >/dev/null");
    sh(w, REPOSITORY);
    sh(w, "mkdir \"$T/plain\"; cp -a \"$L/repo\" \"$T/plain/repo\"");
    give_to_user(w);
    w.mount();
    let dates =
        "export GIT_AUTHOR_DATE='2024-01-01T00:00:00Z' GIT_COMMITTER_DATE='2024-01-01T00:00:00Z'\n";
    let before = run(w, STATE);
    assert_eq!(before, run(w, &STATE.replace("$M", "$T/plain")));
    run(w, &format!("{dates}{}", WORK.replace("$M", "$T/plain")));
    run(w, &format!("{dates}{WORK}"));
    let want = run(w, &STATE.replace("$M", "$T/plain"));
    assert_ne!(want, before);
    for _ in 0..2 {
        assert_eq!(run(w, STATE), want);
        // The same files on disk, with the same content.
        let tree = "cd \"$M\"; find repo tree local copied -path '*/.git' -prune -o -printf '%P %y %m %l\\n' | sort; \
            find repo tree local copied -path '*/.git' -prune -o -type f -print0 | sort -z | xargs -0 sha256sum";
        let (got, want) = (run(w, tree), run(w, &tree.replace("$M", "$T/plain")));
        assert!(got == want, "the files differ:\n{got}\n--- wanted\n{want}");
        w.remount();
    }
}

app!(history_is_rewritten_over_a_lower_repository, |w| {
    worked(w, sh);
});

app!(an_ordinary_user_works_on_a_lower_repository, |w| {
    worked(w, ush);
});
