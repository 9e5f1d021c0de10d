//! Who may do what.

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use simulator::taskcluster::ApiClient;
use simulator::{CloudKind, Setup, Simulator};
use std::time::Duration;
use taskcluster_api::{Client, Credentials, ExposeSecret, Secrets, Temporary, endpoint};

const NAME: &str = "project/x";

fn simulator() -> Simulator {
    let simulator = Simulator::start(&Setup { kind: CloudKind::Static, latency: Duration::ZERO }).unwrap();
    simulator.world(|world| {
        world.taskcluster.put_secret(NAME, json!({"a": 1}));
        let scopes = ["secrets:get:project/*", "auth:create-client:ci/*"];
        world.taskcluster.clients.push(ApiClient::permanent("issuer", "token-of-the-issuer", &scopes));
    });
    simulator
}

fn issuer() -> Credentials {
    Credentials::new("issuer", "token-of-the-issuer")
}

fn client(simulator: &Simulator, credentials: Credentials) -> Client {
    Client::new(simulator.url().parse().unwrap()).unwrap().with_credentials(credentials)
}

fn temporary(scope: &str, name: Option<&str>, begin: i64, end: i64) -> Credentials {
    let now = Timestamp::now();
    let at = |minutes| now.saturating_add(SignedDuration::from_mins(minutes)).unwrap();
    let wanted = Temporary {
        client_id: name.map(str::to_owned),
        scopes: vec![scope.to_owned()],
        start: at(begin),
        expiry: at(end),
    };
    issuer().temporary(&wanted).unwrap()
}

async fn status(client: &Client, name: &str) -> Result<(), u16> {
    let got = Secrets::new(client.clone()).get(name).await;
    got.map(drop).map_err(|error| error.status().unwrap())
}

#[tokio::test]
async fn scopes_decide() {
    let simulator = simulator();
    let issuer = client(&simulator, issuer());
    assert_eq!(status(&issuer, NAME).await, Ok(()));
    assert_eq!(status(&issuer, "project/missing").await, Err(404));
    assert_eq!(status(&issuer, "other/x").await, Err(403));
    assert_eq!(Secrets::new(issuer.clone()).remove(NAME).await.unwrap_err().status(), Some(403));
    let restricted = issuer.with_authorized_scopes(vec!["secrets:get:project/y".to_owned()]);
    assert_eq!(status(&restricted, NAME).await, Err(403));
    let renewed = restricted.with_credentials(self::issuer());
    assert_eq!(status(&renewed, NAME).await, Err(403), "new credentials don't lift the restriction");
    let too_much = issuer.with_authorized_scopes(vec!["*".to_owned()]);
    assert_eq!(status(&too_much, NAME).await, Err(401));
    let anonymous = Client::new(simulator.url().parse().unwrap()).unwrap();
    assert_eq!(status(&anonymous, NAME).await, Err(403));
    simulator.world(|world| world.taskcluster.anonymous_scopes.push("secrets:get:*".to_owned()));
    assert_eq!(status(&anonymous, NAME).await, Ok(()));
    simulator.world(|world| world.taskcluster.denied_scopes.push(format!("secrets:get:{NAME}")));
    assert_eq!(status(&issuer, NAME).await, Err(403));
    assert_eq!(status(&client(&simulator, Credentials::new("nobody", "token")), NAME).await, Err(401));
    assert_eq!(status(&client(&simulator, Credentials::new("issuer", "wrong")), NAME).await, Err(401));
}

#[tokio::test]
async fn temporary_credentials_are_as_good_as_their_issuer_and_no_better() {
    let simulator = simulator();
    for (credentials, expected) in [
        (temporary("secrets:get:project/x", None, -1, 1), Ok(())),
        (temporary("secrets:get:project/x", Some("ci/task"), -1, 1), Ok(())),
        (temporary("secrets:get:project/x", Some("other/task"), -1, 1), Err(401)),
        (temporary("secrets:get:project/y", None, -1, 1), Err(403)),
        (temporary("secrets:get:*", None, -1, 1), Err(401)),
        // Times may be off by five minutes.
        (temporary("secrets:get:project/x", None, -10, -4), Ok(())),
        (temporary("secrets:get:project/x", None, 4, 10), Ok(())),
        (temporary("secrets:get:project/x", None, -10, -6), Err(401)),
        (temporary("secrets:get:project/x", None, 6, 10), Err(401)),
    ] {
        assert_eq!(status(&client(&simulator, credentials.clone()), NAME).await, expected, "{credentials:?}");
    }
    // A certificate that was changed is no longer signed.
    let good = temporary("secrets:get:project/x", None, -1, 1);
    let text = good.certificate.as_ref().unwrap().expose_secret().replace("project/x", "project/*");
    let forged = good.clone().with_certificate(text).unwrap();
    assert_eq!(status(&client(&simulator, forged), NAME).await, Err(401));
    // They end with their issuer.
    simulator.world(|world| {
        let issuer = world.taskcluster.clients.iter_mut().find(|client| client.client_id == "issuer").unwrap();
        issuer.expires = std::time::SystemTime::UNIX_EPOCH;
    });
    assert_eq!(status(&client(&simulator, good), NAME).await, Err(401));
}

#[tokio::test]
async fn a_signed_url_needs_no_credentials_until_it_ends() {
    let simulator = simulator();
    let anybody = taskcluster_api::plain_http_client().unwrap().build().unwrap();
    let ask = async |url: String| anybody.get(url).send().await.unwrap().status().as_u16();
    for credentials in [issuer(), temporary("secrets:get:project/x", Some("ci/a"), -1, 1)] {
        let client = client(&simulator, credentials);
        let url = |name| {
            let url = client.signed_url(&endpoint::secrets::GET, &[name], &[], Duration::from_secs(60)).unwrap();
            url.expose_secret().to_owned()
        };
        assert_eq!(ask(url(NAME)).await, 200);
        assert_eq!(ask(url(NAME).replace("project%2Fx", "project%2Fy")).await, 401);
        assert_eq!(ask(url("other")).await, 403);
        let past = simulator.world(|world| std::mem::replace(&mut world.taskcluster.clock_offset, 120));
        assert_eq!(ask(url(NAME)).await, 401);
        simulator.world(|world| world.taskcluster.clock_offset = past);
    }
    // The deployment's clock decides, and only a GET can be signed so.
    simulator.world(|world| world.taskcluster.clock_offset = -3600);
    let past = client(&simulator, issuer());
    assert_eq!(Secrets::new(past.clone()).get(NAME).await.map(drop).map_err(|error| error.status()), Ok(()));
    let url = past.signed_url(&endpoint::secrets::GET, &[NAME], &[], Duration::from_secs(60)).unwrap();
    assert_eq!(ask(url.expose_secret().to_owned()).await, 200);
    simulator.world(|world| world.taskcluster.clock_offset = 0);
    let removed = anybody.delete(url.expose_secret()).send().await.unwrap();
    assert_eq!(removed.status().as_u16(), 401);
    // A list's query is part of what is signed.
    let operator = simulator.operator().unwrap();
    let url = operator.signed_url(&endpoint::secrets::LIST, &[], &[("limit", "1")], Duration::from_secs(60)).unwrap();
    assert_eq!(ask(url.expose_secret().to_owned()).await, 200);
    assert_eq!(ask(url.expose_secret().replace("limit=1", "limit=2")).await, 401);
}
