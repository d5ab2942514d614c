//! etcd's users: wrong passwords, expired tokens, and what is never shown.

use futures::executor::block_on;
use palm_tests::{Proxy, eventually};

use super::{super::*, *};

const PASSWORD: &str = "s3cret-enough";

/// An etcd with authentication on, whose tokens live 1 s.
fn guarded() -> palm_tests::Etcd {
    let server = palm_tests::Etcd::builder()
        .arg("--auth-token-ttl=1")
        .start();
    server.etcdctl(&["user", "add", &format!("root:{PASSWORD}")]);
    server.etcdctl(&["user", "grant-role", "root", "root"]);
    server.etcdctl(&["user", "add", "guest:gu3st-password"]);
    server.etcdctl(&["auth", "enable"]);
    server
}

fn login(endpoint: String, name: &str, password: &str) -> Etcd {
    let mut settings = EtcdSettings::new([endpoint]);
    settings.user = Some((name.into(), password.into()));
    assert!(!format!("{settings:?}").contains(password));
    Etcd::start("palm-etcd", settings).expect("a thread")
}

/// Waits until the tokens that etcd gave out so far have expired: time itself is tested here. etcd
/// looks once a second, and a token counts from its last use.
fn let_tokens_expire() {
    std::thread::sleep(Duration::from_millis(3500));
}

#[test]
fn an_expired_token_is_renewed_for_requests_and_watches() {
    let server = guarded();
    let between = Proxy::start(server.address());
    let etcd = login(between.endpoint(), "root", PASSWORD);
    block_on(put(&etcd, "/w/a", "1")).expect("a write");
    let mut watch = etcd.watch(Target::Prefix("/w/".into()));
    assert_eq!(told(&etcd, &mut watch, "listed"), ["+/w/a=1", "listed"]);
    let granted = block_on(etcd.grant_lease(Duration::from_secs(60))).expect("a lease");
    let mut renewals = block_on(etcd.keep_alive(granted.id)).expect("a stream");
    let_tokens_expire();
    block_on(put(&etcd, "/w/b", "2")).expect("a write with a new token");
    assert!(told(&etcd, &mut watch, "+/w/b=2").contains(&"+/w/b=2".to_owned()));
    block_on(renewals.renew()).expect("renewals go on");
    let_tokens_expire();
    // A watch that finds both its connection cut and its token expired.
    between.cut();
    between.pass();
    assert_eq!(told(&etcd, &mut watch, "listed"), ["interrupted", "listed"]);
    block_on(put(&etcd, "/w/c", "3")).expect("a write");
    told(&etcd, &mut watch, "+/w/c=3");
}

#[test]
fn a_watch_opened_with_an_expired_token_recovers() {
    let server = guarded();
    let etcd = login(server.endpoint(), "root", PASSWORD);
    block_on(put(&etcd, "/w/a", "1")).expect("a write");
    let_tokens_expire();
    let mut watch = etcd.watch(Target::Key("/w/a".into()));
    told(&etcd, &mut watch, "listed");
}

#[test]
fn a_wrong_password_is_denied_and_never_shown() {
    let server = guarded();
    let wrong = login(server.endpoint(), "root", "wr0ng-password");
    let guest = login(server.endpoint(), "guest", "gu3st-password");
    let nobody = handle([server.endpoint()]);
    for (etcd, password) in [
        (wrong, "wr0ng-password"),
        (guest, "gu3st-password"),
        (nobody, PASSWORD),
    ] {
        let error = block_on(etcd.get("/a")).expect_err("denied");
        assert_eq!(error.kind(), EtcdErrorKind::Denied, "{error}");
        assert!(!format!("{error} {error:?}").contains(password), "{error}");
        let mut watch = etcd.watch(Target::Prefix("/".into()));
        assert_eq!(short(&wait(&etcd, watch.next())), "interrupted");
    }
}

#[test]
fn credentials_may_be_set_before_authentication_is_on() {
    let server = palm_tests::Etcd::start();
    let etcd = login(server.endpoint(), "root", PASSWORD);
    block_on(put(&etcd, "/a", "before")).expect("a write");
    server.etcdctl(&["user", "add", &format!("root:{PASSWORD}")]);
    server.etcdctl(&["user", "grant-role", "root", "root"]);
    server.etcdctl(&["auth", "enable"]);
    eventually("authentication is on", PATIENCE, || {
        (!server.try_etcdctl(&["get", "/a"]).status.success()).then_some(())
    });
    block_on(put(&etcd, "/a", "after")).expect("a write with a token");
}

/// etcd gives such a watch no id of its own, or that of none.
#[test]
fn a_refused_watch_does_not_affect_others() {
    let server = palm_tests::Etcd::start();
    server.etcdctl(&["user", "add", &format!("root:{PASSWORD}")]);
    server.etcdctl(&["user", "grant-role", "root", "root"]);
    server.etcdctl(&["user", "add", "guest:gu3st-password"]);
    server.etcdctl(&["role", "add", "reader"]);
    server.etcdctl(&[
        "role",
        "grant-permission",
        "--prefix=true",
        "reader",
        "readwrite",
        "/w/",
    ]);
    server.etcdctl(&["user", "grant-role", "guest", "reader"]);
    server.etcdctl(&["auth", "enable"]);
    let etcd = login(server.endpoint(), "guest", "gu3st-password");
    let mut watch = etcd.watch(Target::Prefix("/w/".into()));
    told(&etcd, &mut watch, "listed");
    let refused = || {
        let target = Target::Prefix("/forbidden/".into());
        wait(
            &etcd,
            crate::io::etcd::watch_task::follow_from(
                &etcd,
                target,
                palm_proto::types::ids::Revision(1),
            ),
        )
    };
    assert!(refused().contains("permission denied"), "{}", refused());
    for n in 0..3 {
        let mut late = etcd.watch(Target::Key("/w/late".into()));
        told(&etcd, &mut late, "listed");
        block_on(put(&etcd, "/w/late", &n.to_string())).expect("a write");
        let change = format!("+/w/late={n}");
        assert_eq!(told(&etcd, &mut late, &change).last(), Some(&change));
        assert_eq!(told(&etcd, &mut watch, &change), [change]);
        refused();
    }
}
