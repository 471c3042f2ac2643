// Clients of Java: CLIENT OPERATION URL FILE; prints one line of JSON (README.md of tests/clients).

import java.io.FileInputStream;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.HttpURLConnection;
import java.net.URI;
import java.net.URL;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;

public class Clients {
    record Seen(int status, String said) {}

    static String operation;
    static String url;
    static Path file;

    public static void main(String[] arguments) {
        operation = arguments[1];
        url = arguments[2];
        file = Path.of(arguments[3]);
        String status = "null";
        String said;
        try {
            Seen seen = run(arguments[0]);
            status = String.valueOf(seen.status());
            said = seen.said();
        } catch (java.net.HttpRetryException error) {
            status = String.valueOf(error.responseCode()); // it would have to send the body again, and can't
            said = error.toString();
        } catch (Exception error) {
            said = "";
            for (Throwable one = error; one != null; one = one.getCause()) said += one + "; ";
        }
        System.out.println("{\"status\": " + status + ", \"said\": " + quoted(said) + "}");
        System.exit(0); // pools of connections would keep it alive
    }

    static Seen run(String client) throws Exception {
        return switch (client) {
            case "urlconnection" -> connection("");
            case "urlconnection-fixed" -> connection("fixed");
            case "httpclient" -> httpClient(false, false);
            case "httpclient-follow" -> httpClient(true, false);
            case "httpclient-expect" -> httpClient(true, true);
            case "okhttp" -> okHttp();
            case "apache5" -> apache5(false);
            case "apache5-expect" -> apache5(true);
            case "apache4" -> apache4(false);
            case "apache4-expect" -> apache4(true);
            default -> throw new IllegalArgumentException(client);
        };
    }

    static String quoted(String text) {
        StringBuilder quoted = new StringBuilder("\"");
        for (char one : text.toCharArray()) {
            if (one == '"' || one == '\\' || one < ' ' || one > '~') quoted.append(String.format("\\u%04x", (int) one));
            else quoted.append(one);
        }
        return quoted.append('"').toString();
    }

    static String text(InputStream stream) throws Exception {
        return stream == null ? "" : new String(stream.readAllBytes(), StandardCharsets.UTF_8);
    }

    static Seen connection(String mode) throws Exception {
        HttpURLConnection connection = (HttpURLConnection) new URL(url).openConnection();
        if (operation.equals("head")) {
            connection.setRequestMethod("HEAD");
            return new Seen(connection.getResponseCode(), connection.getHeaderField("Content-Length"));
        }
        if (!operation.equals("get")) {
            connection.setRequestMethod("PUT");
            connection.setDoOutput(true);
            if (operation.equals("stream")) connection.setChunkedStreamingMode(0);
            else if (mode.equals("fixed")) connection.setFixedLengthStreamingMode(Files.size(file));
            try (OutputStream body = connection.getOutputStream()) {
                Files.copy(file, body);
            }
        }
        int status = connection.getResponseCode();
        if (operation.equals("get")) {
            Files.copy(connection.getInputStream(), file, StandardCopyOption.REPLACE_EXISTING);
            return new Seen(status, "");
        }
        return new Seen(status, text(status < 400 ? connection.getInputStream() : connection.getErrorStream()));
    }

    static Seen httpClient(boolean follow, boolean expect) throws Exception {
        var policy = follow ? java.net.http.HttpClient.Redirect.NORMAL : java.net.http.HttpClient.Redirect.NEVER;
        var client = java.net.http.HttpClient.newBuilder().followRedirects(policy).build();
        var request = HttpRequest.newBuilder(URI.create(url)).expectContinue(expect);
        if (operation.equals("get")) {
            var answer = client.send(request.GET().build(), BodyHandlers.ofByteArray());
            Files.write(file, answer.body());
            return new Seen(answer.statusCode(), "");
        }
        if (operation.equals("head")) {
            var answer = client.send(request.method("HEAD", BodyPublishers.noBody()).build(), BodyHandlers.discarding());
            return new Seen(answer.statusCode(), answer.headers().firstValue("Content-Length").orElse(""));
        }
        if (operation.equals("again")) {
            var first = client.send(request.PUT(BodyPublishers.ofFile(file)).build(), BodyHandlers.ofString());
            var reading = HttpRequest.newBuilder(URI.create(url.replace("/add_key/", "/get_key/"))).GET().build();
            var answer = client.send(reading, BodyHandlers.ofByteArray());
            Files.write(file, answer.body());
            return new Seen(answer.statusCode(), String.valueOf(first.statusCode()));
        }
        // One stream, which can't be sent twice: ofInputStream may be asked for another one.
        InputStream once = new FileInputStream(file.toFile());
        var body = operation.equals("put") ? BodyPublishers.ofFile(file) : BodyPublishers.ofInputStream(() -> once);
        var answer = client.send(request.PUT(body).build(), BodyHandlers.ofString());
        return new Seen(answer.statusCode(), answer.body());
    }

    static Seen okHttp() throws Exception {
        var client = new okhttp3.OkHttpClient();
        var request = new okhttp3.Request.Builder().url(url);
        if (operation.equals("get")) {
            try (var answer = client.newCall(request.build()).execute()) {
                Files.write(file, answer.body().bytes());
                return new Seen(answer.code(), "");
            }
        }
        var type = okhttp3.MediaType.get("application/octet-stream");
        okhttp3.RequestBody body = okhttp3.RequestBody.create(type, file.toFile());
        if (operation.equals("form")) {
            body = new okhttp3.MultipartBody.Builder()
                .setType(okhttp3.MultipartBody.FORM).addFormDataPart("file", "value", body).build();
        } else if (operation.equals("stream")) {
            body = new okhttp3.RequestBody() {
                @Override public okhttp3.MediaType contentType() { return type; }
                @Override public void writeTo(okio.BufferedSink sink) throws java.io.IOException {
                    try (okio.Source source = okio.Okio.source(file.toFile())) { sink.writeAll(source); }
                }
            };
        }
        try (var answer = client.newCall(request.put(body).build()).execute()) {
            return new Seen(answer.code(), answer.body().string());
        }
    }

    static Seen apache5(boolean expect) throws Exception {
        var settings = org.apache.hc.client5.http.config.RequestConfig.custom().setExpectContinueEnabled(expect).build();
        var builder = org.apache.hc.client5.http.impl.classic.HttpClients.custom();
        var type = org.apache.hc.core5.http.ContentType.APPLICATION_OCTET_STREAM;
        try (var client = builder.setDefaultRequestConfig(settings).build()) {
            if (operation.equals("get")) {
                return client.execute(new org.apache.hc.client5.http.classic.methods.HttpGet(url), answer -> {
                    Files.copy(answer.getEntity().getContent(), file, StandardCopyOption.REPLACE_EXISTING);
                    return new Seen(answer.getCode(), "");
                });
            }
            var request = new org.apache.hc.client5.http.classic.methods.HttpPut(url);
            request.setEntity(operation.equals("put")
                ? new org.apache.hc.core5.http.io.entity.FileEntity(file.toFile(), type)
                : new org.apache.hc.core5.http.io.entity.InputStreamEntity(new FileInputStream(file.toFile()), -1, type));
            return client.execute(request, answer -> new Seen(answer.getCode(),
                org.apache.hc.core5.http.io.entity.EntityUtils.toString(answer.getEntity())));
        }
    }

    static Seen apache4(boolean expect) throws Exception {
        // As its documentation says for who wants PUT to follow: a strategy of one's own.
        var following = new org.apache.http.impl.client.DefaultRedirectStrategy(new String[] {"GET", "HEAD", "PUT"});
        var settings = org.apache.http.client.config.RequestConfig.custom().setExpectContinueEnabled(expect).build();
        var builder = org.apache.http.impl.client.HttpClients.custom().setDefaultRequestConfig(settings);
        var type = org.apache.http.entity.ContentType.APPLICATION_OCTET_STREAM;
        try (var client = builder.setRedirectStrategy(following).build()) {
            if (operation.equals("get")) {
                try (var answer = client.execute(new org.apache.http.client.methods.HttpGet(url))) {
                    Files.copy(answer.getEntity().getContent(), file, StandardCopyOption.REPLACE_EXISTING);
                    return new Seen(answer.getStatusLine().getStatusCode(), "");
                }
            }
            var request = new org.apache.http.client.methods.HttpPut(url);
            request.setEntity(operation.equals("put")
                ? new org.apache.http.entity.FileEntity(file.toFile(), type)
                : new org.apache.http.entity.InputStreamEntity(new FileInputStream(file.toFile()), type));
            try (var answer = client.execute(request)) {
                return new Seen(answer.getStatusLine().getStatusCode(),
                    org.apache.http.util.EntityUtils.toString(answer.getEntity()));
            }
        }
    }
}
