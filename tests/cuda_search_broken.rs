//! Searches on a GPU whose launches begin to fail half way, and what the driver is asked for inside of taps: on the
//! emulator alone, which can be told to fail, and counts. In a test file of its own, for it fails the launches of the whole
//! process.

mod kinds;
mod launches;
mod on_gpu;
mod owned;

use std::sync::{Arc, Mutex, PoisonError};

use kinds::{FORMATS, Kinds, Probe, settings};
use launches::{Launches, counted};
use mq::auto_quantize::score::Method;
use mq::auto_quantize::settings::Settings;
use mq::model::Mode;

/// Tests here use the process's only emulator, whose launches one of them fails.
static ALONE: Mutex<()> = Mutex::new(());

/// The first step finds the memory to work in; from then on everything is in place.
#[test]
fn no_tap_of_a_search_waits_and_only_the_first_ones_allocate() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(gpu) = on_gpu::gpu(std::ptr::null_mut(), None) else {
        return;
    };
    let Some(_launches) = Launches::of_emulator() else {
        return;
    };
    let mut all = kinds::linears();
    let linears = all.clone();
    all.extend(kinds::convolutions());
    for (kinds, method) in [(&all, Method::Gradient), (&linears, Method::Fisher)] {
        let names = [c"allocations", c"synchronizations", c"device_to_host_bytes"];
        let probe = Arc::new(Probe {
            read: Box::new(move || names.map(counted).to_vec()),
            moved: Mutex::default(),
        });
        let asked = Settings {
            num_score_steps: 3,
            ..settings(method, FORMATS, 6.5)
        };
        let mut there = Kinds::there(&gpu, kinds);
        there
            .search_probed(asked, Arc::clone(&probe))
            .expect("a search");
        let moved = probe.moved.lock().expect("nobody panicked").clone();
        assert_eq!(moved.len(), 3, "{method:?}");
        assert!(moved[0][0] > 0, "{method:?}: nothing was counted");
        assert_eq!(moved[0][1..], [0, 0], "{method:?}: waits in the first step");
        for moved in &moved[1..] {
            assert_eq!(
                moved[..],
                [0, 0, 0],
                "{method:?}: allocations, waits, copies"
            );
        }
    }
}

#[test]
fn launches_that_fail_leave_the_model_as_it_was() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(gpu) = on_gpu::gpu(std::ptr::null_mut(), None) else {
        return;
    };
    let Some(launches) = Launches::of_emulator() else {
        return;
    };
    let linears = kinds::linears()[..2].to_vec();
    let mut others = kinds::convolutions()[..2].to_vec();
    others.push(kinds::hosts().swap_remove(0));
    for (kinds, method) in [
        (&linears, Method::Gradient),
        (&others, Method::Gradient),
        (&linears, Method::Gram),
        (&linears, Method::Fisher),
        (&linears, Method::KlDiv),
    ] {
        let asked = || settings(method, FORMATS, 6.5);
        let want = Kinds::there(&gpu, kinds).search(asked()).expect("a search");
        let (mut broken, mut after, mut served) = (0, 3, false);
        while !served {
            let mut there = Kinds::there(&gpu, kinds);
            let before = there.states();
            launches.fail_after(after);
            let found = there.search(asked());
            launches.fail_after(-1);
            match found {
                Ok(found) => {
                    assert_eq!(found.to_json(), want.to_json());
                    served = true;
                }
                Err(error) => {
                    let text = error.to_string();
                    assert!(text.contains("CUDA"), "{method:?} {after}: {text}");
                    assert_eq!(there.states(), before, "{method:?} {after}");
                    assert_eq!(there.model.mode(), Mode::Registered);
                    let again = there.search(asked()).expect("once launches succeed");
                    assert_eq!(again.to_json(), want.to_json(), "{method:?} {after}");
                    broken += 1;
                }
            }
            after += after / 4 + 1;
            assert!(after < 1_000_000, "{method:?}: a search that never ends");
        }
        assert!(broken > 5, "{method:?}: {broken}");
    }
}
